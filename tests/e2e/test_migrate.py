"""Pods that move to another host with all that is theirs; and what is said, and left as it was, when they cannot."""

import pytest

from tests.e2e.backup_site import VOLUMES, pod
from tests.e2e.migrate_site import Site, counted, counting, counts, left_over, sh, sweep

pytestmark = pytest.mark.lab
SECRET = "another very secret word"
HOSTILE = r"printf 1 > 'a b'; printf 2 > \"$(printf 'new\nline')\"; printf 3 > -rf; printf 4 > \"$(printf '\303\050')\""


@pytest.fixture(scope="module")
def site(new_host, tmp_path_factory):
    one, other = new_host("mga"), new_host("mgb")
    # the other's pool has no such volume yet
    own = {one.name: {"pods": [counting(app="shop")]}, other.name: {"storage_volumes": []}}
    return Site(tmp_path_factory.mktemp("migrate"), one, other, own=own)


def test_a_dry_run_says_what_would_move_and_changes_nothing(site):
    one, other = site.hosts
    told = site.ask(*site.words(one, other), "--dry-run")
    assert (told["pods"], told["method"], told["problems"]) == (["shop"], "snapshots", [])
    assert [(volume["name"], volume["size"]) for volume in told["volumes"]] == [("orders", 3 << 30)]
    assert any("whose next deploy brings them back" in note for note in told["notes"])
    assert counts(one) and site.pods(other) == {"demo": True}
    assert sh(other, f"ls -A {VOLUMES}") == "" and left_over(one) + left_over(other) == ""


def test_a_copy_is_made_and_the_pod_stays(site):
    one, other = site.hosts
    told = site.ask(*site.words(one, other), "--yes", "--keep")
    assert told["keep"] and told["replaced"] == []
    assert counts(one) and counts(other)
    assert left_over(one) + left_over(other) == ""


def test_what_is_there_already_is_a_refusal_that_names_it_and_touches_nothing(site):
    one, other = site.hosts
    refused = site.run(*site.words(one, other), "--yes")
    assert refused.returncode == 1
    for words in ("nothing was touched", "pod shop is declared there already, in /etc/casemate/pods/shop.yaml",
                  "volume orders is there already, and pod shop uses it"):  # fmt: skip
        assert words in refused.stderr
    assert site.run(*site.words(one, other), "--dry-run").returncode == 1
    assert counts(one) and counts(other)
    sh(other, "/usr/lib/casemate/bin/casemate-pod remove shop")
    full = site.run(*site.words(one, other), "--yes")
    assert full.returncode == 1 and f"volume orders is there already, and is not empty: {VOLUMES}/orders" in full.stderr
    sh(other, f"btrfs subvolume delete {VOLUMES}/orders")


def test_a_pod_moves_with_all_that_is_its_own(site):
    one, other = site.hosts
    moving = counting(app="shop")
    moving["spec"]["containers"][0]["env"] = [
        {"name": "WORD", "valueFrom": {"secretKeyRef": {"name": "shop", "key": "word"}}},
        {"name": "OURS", "valueFrom": {"configMapKeyRef": {"name": "ours", "key": "key"}}},
    ]  # fmt: skip
    moving["spec"]["containers"][0]["image"] = "localhost/casemate/other:1"
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "shop"}, "stringData": {"word": SECRET}}
    ours = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "ours"}, "data": {"key": "value"}}
    staying = pod("stays", "other", app="other")
    staying["spec"].pop("volumes")
    staying["spec"]["containers"][0] |= {"volumeMounts": [], "command": ["sleep", "1000000"],
                                         "envFrom": [{"configMapRef": {"name": "ours"}}]}  # fmt: skip
    sh(one, "ctr --namespace k8s.io images tag localhost/casemate/demo:1 localhost/casemate/other:1")
    site.put(one, secret, "secrets")
    site.put(one, ours, "configmaps")
    site.put(one, staying)
    site.put(one, moving)
    sh(one, "/usr/lib/casemate/bin/casemate-pod sync --wait=60")
    sh(one, f"cd {VOLUMES}/orders; {HOSTILE}; ln -s nowhere link; mkfifo pipe; setfattr -n user.one -v 1 'a b' || true")
    names = sh(one, f"cd {VOLUMES}/orders; find . -print0 | sort -z | base64 -w0")
    before = counted(one)
    told = site.move(one, other)
    assert told["images"] == ["localhost/casemate/other:1"] and 0 < told["downtime"] < 60
    assert counts(other) and counted(other) > before
    assert sh(other, f"cd {VOLUMES}/orders; find . -print0 | sort -z | base64 -w0") == names
    assert sh(other, f"cd {VOLUMES}/orders; cat 'a b' ./-rf; readlink link; stat -c %F pipe") == "13nowhere\nfifo\n"
    assert sh(other, "stat -c '%a %U' /etc/casemate/secrets/shop.yaml") == "600 root\n"
    assert int(sh(other, f"btrfs qgroup show -rf --raw {VOLUMES}/orders | tail -n1 | awk '{{print $4}}'")) == 3 << 30
    # the source has let go of what nobody else uses, and has kept it
    assert site.pods(one) == {"demo": True, "stays": True} and site.pods(other) == {"demo": True, "shop": True}
    assert sh(one, f"ls {VOLUMES} /etc/casemate/secrets; ls /etc/casemate/configmaps") == (
        f"/etc/casemate/secrets:\n\n{VOLUMES}:\nours.yaml\n"
    )
    assert counted_in(one, told["replaced"]) >= before
    assert left_over(one) + left_over(other) == ""
    for host in site.hosts:
        assert SECRET not in sh(host, "journalctl --no-pager")
        assert sh(host, f"grep -rlsF '{SECRET}' /tmp /run/casemate /var/log /var/lib/casemate/migrate || true") == ""
    # a deploy of the target leaves it, though its inventory does not name it
    deployed = site.run("deploy", "--limit", other.name)
    assert deployed.returncode == 0 and site.pods(other)["shop"], deployed.stdout + deployed.stderr


def counted_in(host, replaced: list[str]) -> int:
    (volume,) = [path for path in replaced if "/orders-" in path]
    return len(sh(host, f"cat {volume}/lines").split())


def test_a_pod_that_is_not_ready_there_runs_on_where_it_was(site):
    one, other = site.hosts
    sh(other, "mkdir /srv/only-here")
    needing = counting(app="shop")
    needing["spec"]["volumes"].append({"name": "here", "hostPath": {"path": "/srv/only-here", "type": "Directory"}})
    site.put(other, needing)
    sh(other, "/usr/lib/casemate/bin/casemate-pod sync --wait=60")
    sweep(one)
    failed = site.run(*site.words(other, one), "--yes", "--timeout", "5")
    assert failed.returncode == 1, failed.stdout
    assert "hostPath /srv/only-here does not exist" in failed.stderr
    assert f"{other.name}: its pods run as before; what had come to {one.name} is undone there" in failed.stderr
    assert counts(other) and "shop" not in site.pods(one)
    assert sh(one, f"ls -A {VOLUMES} /var/lib/casemate/pool/replaced; ls /etc/casemate/secrets") == (
        f"/var/lib/casemate/pool/replaced:\n\n{VOLUMES}:\n"
    )
    assert left_over(one) + left_over(other) == ""
    sh(one, "mkdir /srv/only-here")
    told = site.move(other, one)  # and now it can
    assert counts(one) and told["downtime"] < 60 and "shop" not in site.pods(other)


def test_what_cannot_be_meant_is_said(site):
    one, other = site.hosts
    for words, code, said in (
        (["--from", one.name, "--to", "nobody", "--yes"], 2, "the inventory has no host nobody"),
        (["--from", one.name, "--to", one.name, "--yes"], 2, "is where the pods are already"),
        (["--from", one.name, "--to", other.name], 2, "no terminal to ask on"),
        (["--from", one.name, "--to", other.name, "--pod", "nobody", "--yes"], 1, "there is no pod nobody"),
        (["--from", one.name, "--to", other.name, "--select", "app=", "--yes"], 1, "no pod has the labels"),
    ):
        done = site.run("migrate", *words)
        assert done.returncode == code and said in done.stderr, done.stdout + done.stderr
    lock = "flock /var/lib/casemate/backup/lock sh -c 'echo a backup > /var/lib/casemate/backup/lock; sleep 300'"
    sh(other, f"systemd-run --quiet --collect --unit=busy {lock}; sleep 1")
    busy = site.run(*site.words(one, other), "--yes")
    sh(other, "systemctl stop busy")
    assert busy.returncode == 1 and f"{other.name}: a backup is under way on this host; wait for it" in busy.stderr
    assert counts(one) and left_over(one) + left_over(other) == ""
