"""Backups of a host with real restic: made, listed, verified, brought back; and what is said when that cannot be."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.conftest import ROOT
from tests.e2e.backup_site import SECRET, VOLUMES, Site

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def site(new_host, tmp_path_factory):
    found = Site(new_host("bk"), tmp_path_factory.mktemp("backup"))
    found.deploy()
    return found


@pytest.fixture(scope="module")
def first(site) -> dict:
    """The first backup, and what the pods had written before it began."""
    before = {volume: site.last(volume) for volume in ("orders", "uploads")}
    return site.ask("backup", "now") | {"before": before}


def test_a_backup_has_all_and_is_of_one_moment(site, first):
    assert first["everything"] and first["consistent"]
    shown = site.ask("backup", "show", first["id"])
    assert [one["name"] for one in shown["pods"]] == ["blog", "demo", "shop"]
    assert [(one["name"], one["size"]) for one in shown["volumes"]] == [
        ("orders", 64 << 20), ("scratch", 0), ("uploads", 0)
    ]  # fmt: skip
    listed = site.ask("backup", "list")
    assert [one["id"] for one in listed["backups"]] == [first["id"]]
    assert site.run("backup", "verify").returncode == 0
    checks = {one["id"]: one for one in site.ask("doctor")["checks"]}
    assert checks["backup"]["ok"] and first["id"] in checks["backup"]["evidence"]


def test_a_volume_comes_back_as_it_was_and_what_it_replaces_is_kept(site, first):
    assert site.sh(f"cat {VOLUMES}/orders/hooks") == "before\nafter\n"
    site.sh(f"echo damaged > {VOLUMES}/orders/lines")
    planned = site.ask("restore", "--volume", "orders", "--dry-run")
    assert planned["volumes"][0] | {"size": 0} == {
        "name": "orders", "to": "orders", "size": 0, "replaces": True, "used_by": ["shop"]
    }  # fmt: skip
    blog = site.last("uploads")
    done = site.ask("restore", "--volume", "orders", "--yes")
    lines = site.sh(f"cat {VOLUMES}/orders/lines").split()
    assert lines[: first["before"]["orders"]] == [str(n + 1) for n in range(first["before"]["orders"])]
    # the moment lies between the hooks
    assert site.sh(f"cat {VOLUMES}/orders/hooks") == "before\n"
    assert (done["files"], done["edge"]) == (3, None) and done["bytes"] > 0
    (away,) = done["replaced"]
    assert site.sh(f"head -n 1 {away}/lines") == "damaged\n"
    status = {one["name"]: one for one in site.ask("status")["pods"]}
    assert status["shop"]["ready"] and status["shop"]["restarts"] <= 1
    began = {volume: site.sh(f"grep -cx 1 {VOLUMES}/{volume}/lines") for volume in ("orders", "uploads")}
    assert began == {"orders": "2\n", "uploads": "1\n"}  # one began anew, the other was left alone
    assert site.last("uploads") > blog


def test_selected_pods_come_back_with_what_they_use_and_others_are_not_touched(site, first):
    site.sh("rm /etc/casemate/pods/blog.yaml")
    site.sh(f"echo mine > {VOLUMES}/scratch/file")
    done = site.ask("restore", "--select", "app=blog", "--yes")
    assert [one["name"] for one in done["pods"]] == ["blog"] and [one["name"] for one in done["volumes"]] == ["uploads"]
    assert site.sh(f"cat {VOLUMES}/scratch/file") == "mine\n"
    assert {one["name"]: one["ready"] for one in site.ask("status")["pods"]} == {
        "blog": True,
        "demo": True,
        "shop": True,
    }


def test_a_pod_comes_back_beside_itself_by_another_name(site, first):
    done = site.ask("restore", "--pod", "shop", "--as", "shop-before", "--yes")
    assert (done["pods"][0]["to"], done["volumes"][0]["to"], done["replaced"]) == ("shop-before", "shop-before", [])
    pods = {one["name"]: one["ready"] for one in site.ask("status")["pods"]}
    assert pods["shop"] and pods["shop-before"]
    site.sh("rm /etc/casemate/pods/shop-before.yaml; /usr/lib/casemate/bin/casemate-pod sync")


def test_a_part_is_a_backup_of_its_own_and_the_policy_counts_it_apart(site, first):
    part = site.ask("backup", "now", "--pod", "shop")
    assert not part["everything"]
    shown = site.ask("backup", "show", part["id"])
    assert [one["name"] for one in shown["pods"]] == ["shop"] and [v["name"] for v in shown["volumes"]] == ["orders"]
    again = site.ask("backup", "now")
    kept = site.ask("backup", "prune", "--yes")  # of one day: the last of either kind
    assert sorted(kept["kept"]) == sorted([part["id"], again["id"]]) and kept["removed"] == [first["id"]]
    assert [one["id"] for one in site.ask("backup", "list")["backups"]] == [part["id"], again["id"]]


def test_a_backup_with_a_time_of_its_own_stays_for_so_long_and_no_longer(site, first):
    kept = site.ask("backup", "now", "--ttl", "12h")
    short = site.ask("backup", "now", "--ttl", "1h")
    site.ask("backup", "now")
    assert site.ask("backup", "prune", "--yes")["removed"] and kept["id"] in _listed(site)
    restic = "/usr/lib/casemate/bin/casemate-backup restic"
    until = next(one["until"] for one in site.ask("backup", "list")["backups"] if one["id"] == short["id"])
    assert 3500 < until - short["ended"] < 3700
    site.sh(f"{restic} tag --remove until-{until:.0f} --add until-1 {short['id']} >&2")
    listed = site.ask("backup", "list")["backups"]
    (over,) = [one["id"] for one in listed if one["until"] == 1]
    assert site.ask("backup", "prune", "--yes")["removed"] == [over]
    assert kept["id"] in _listed(site) and over not in _listed(site)
    sizes = {one["id"]: one["bytes"] for one in site.ask("backup", "list")["backups"]}
    assert sizes[kept["id"]] == kept["bytes"]


def test_images_come_back_where_they_are_saved(site, first):
    site.sh("""sed -i 's/"images": false/"images": true/' /etc/casemate/backup.json""")
    made = site.ask("backup", "now")
    site.sh("ctr -n k8s.io images rm --sync localhost/casemate/demo:1 >&2")
    planned = site.ask("restore", "--pod", "blog", "--backup", made["id"], "--dry-run")
    assert [one["reference"] for one in planned["images"]] == ["localhost/casemate/demo:1"]
    site.ask("restore", "--pod", "blog", "--backup", made["id"], "--yes")
    site.sh("""sed -i 's/"images": true/"images": false/' /etc/casemate/backup.json""")
    there = site.sh("ctr -n k8s.io images ls -q name==localhost/casemate/demo:1")
    assert there == "localhost/casemate/demo:1\n" and made["bytes"] > first["bytes"] + (1 << 20)
    assert {one["name"]: one["ready"] for one in site.ask("status")["pods"]}["blog"]


def _listed(site) -> list[str]:
    return [one["id"] for one in site.ask("backup", "list")["backups"]]


def test_the_state_of_backups_is_one_line_a_host(site, first):
    told = site.ask("backup", "status")
    assert told["phase"] == "idle" and told["last"]["ok"] and told["last_good"]["bytes"] and told["verified"]
    assert (told["schedule"], told["next"]) == ("", 0)
    shown = site.run("backup", "status").stdout.splitlines()
    assert len(shown) == 2 and shown[0].split()[:4] == ["HOST", "NOW", "LAST", "GOOD"] and "by hand" in shown[1]
    assert "7 daily" in site.run("backup", "schedule").stdout


def test_what_cannot_be_done_is_said_with_cause_and_cure(site, first):
    nobody = site.run("restore", "--pod", "nobody", "--yes")
    assert nobody.returncode == 1 and "there is no pod nobody; there are: blog, demo, shop" in nobody.stdout
    site.sh("cp -p /etc/casemate/backup.password /root/kept; echo wrong > /etc/casemate/backup.password")
    wrong = site.run("backup", "now")
    site.sh("mv /root/kept /etc/casemate/backup.password; mv /srv/backup /srv/away")
    gone = site.run("backup", "now")
    site.sh("mv /srv/away /srv/backup")
    assert wrong.returncode == 1 and "the password is not this repository's" in wrong.stdout
    assert gone.returncode == 1 and "the repository is gone" in gone.stdout
    site.sh("mount -t tmpfs -o size=8m none /mnt; sed -i s,/srv/backup,/mnt/full, /etc/casemate/backup.json; "
            "mkdir /mnt/full; mv /var/lib/casemate/backup/status.json /root/kept")  # fmt: skip
    full = site.run("backup", "now")
    site.sh("umount /mnt; sed -i s,/mnt/full,/srv/backup, /etc/casemate/backup.json; "
            "mv /root/kept /var/lib/casemate/backup/status.json")  # fmt: skip
    assert full.returncode == 1 and "MiB left and the backup may need" in full.stdout
    assert site.ask("backup", "now")["everything"]


def test_two_at_once_and_a_run_that_is_killed_leave_the_next_one_its_way(site, first):
    argv = [sys.executable, "-m", "appliance", "backup", "now", "-i", str(site.inventory)]
    site.sh(f"head -c 300M /dev/urandom > {VOLUMES}/scratch/big")
    run = subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert any(b"saving" in line for line in run.stderr)
    second = site.run("backup", "now")
    assert second.returncode == 1 and "a backup, pid" in second.stdout and "is under way" in second.stdout
    site.sh("pkill -KILL -f '[c]asemate-backup now'")
    os.kill(run.pid, signal.SIGKILL)
    run.communicate()
    end = time.monotonic() + 30
    while site.sh("pgrep restic || true") and time.monotonic() < end:
        time.sleep(0.5)
    assert site.sh("pgrep restic || true; grep casemate/backup /proc/mounts || true") == ""
    assert site.ask("backup", "now")["everything"]
    assert site.sh("ls -A /var/lib/casemate/pool") == "replaced\nvolumes\n"
    assert site.run("backup", "verify").returncode == 0
    site.sh(f"rm {VOLUMES}/scratch/big")


def test_the_password_is_nowhere_but_in_its_file(site, first):
    found = site.sh(f"grep -rlsF '{SECRET}' /etc /var/lib/casemate /var/log /run /tmp /root || true").split()
    assert found == ["/etc/casemate/backup.password"]
    assert site.sh("stat -c %a /etc/casemate/backup.password") == "600\n"
    assert SECRET not in site.sh("journalctl --no-pager")
