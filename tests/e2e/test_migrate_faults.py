"""Migrations of a gigabyte, there and back; and ones that are hit at their worst moments: nothing is lost, ever."""

import json
import random
import re
import signal
import socket
import subprocess
import time

import pytest

from appliance.lab import state
from tests.conftest import on_host
from tests.e2e.backup_site import VOLUMES
from tests.e2e.conftest import seed
from tests.e2e.migrate_site import POOL, Site, counted, counting, counts, left_over, sh, sweep
from tests.e2e.release_site import until

pytestmark = [pytest.mark.lab, pytest.mark.full]
ROUNDS = 10
GIGABYTE = 1 << 30
LONGEST = 8.0  # seconds: about as long as one that is not hit takes
PHASES = ("copying while running", "stopping", "last increment", "starting", "letting go")


@pytest.fixture(scope="module")
def site(new_host, tmp_path_factory):
    one, other = new_host("mgc"), new_host("mgd")
    found = Site(tmp_path_factory.mktemp("migrate"), one, other)
    found.put(one, counting(app="shop"))
    until(lambda: found.pods(one).get("shop"))
    return found


def test_a_gigabyte_goes_there_and_back(site):
    source, target = site.hosts
    sh(source, f"head -c {GIGABYTE} /dev/urandom > {VOLUMES}/orders/big")
    digest = sh(source, f"sha256sum < {VOLUMES}/orders/big")
    told = []
    for _ in range(ROUNDS):
        before = counted(source)
        moved = site.move(source, target)
        assert counts(target) and counted(target) > before
        assert sh(target, f"sha256sum < {VOLUMES}/orders/big") == digest
        assert "shop" not in site.pods(source) and sh(source, f"ls {VOLUMES}") == ""
        assert moved["rounds"][0]["bytes"] >= GIGABYTE and moved["rounds"][-1]["bytes"] < GIGABYTE / 100
        seconds = {one["phase"]: one["seconds"] for one in moved["phases"]}
        parts = seconds["stopping"] + seconds["last increment"] + seconds["starting"]
        assert moved["downtime"] <= parts + 0.5
        told.append((moved["downtime"], moved["rounds"][0]["seconds"], [one["bytes"] for one in moved["rounds"]]))
        sweep(source)
        source, target = target, source
    print("\ndowntime, seconds of the first round, bytes of each round:", *told, sep="\n  ")
    sh(source, f"rm {VOLUMES}/orders/big")


def where(site) -> tuple:
    """The host that has the pod, and the other."""
    one, other = site.hosts
    return (one, other) if "shop" in site.pods(one) else (other, one)


def quiet(site) -> None:
    """Wait until no end of a migration is at work any more."""
    for host in site.hosts:
        until(lambda host=host: sh(host, "systemctl list-units --plain --no-legend 'casemate-migrate-*'") == "", 120)


def hit_coordinator(site, source, target, run) -> None:
    run.send_signal(signal.SIGKILL)


def hit_source(site, source, target, run) -> None:
    sh(source, "systemctl kill --signal=KILL --kill-who=main casemate-migrate-source || true")


def hit_target(site, source, target, run) -> None:
    sh(target, "systemctl kill --signal=KILL --kill-who=main casemate-migrate-target || true")


@pytest.mark.parametrize("hit", [hit_source, hit_target, hit_coordinator])
def test_a_migration_that_is_killed_loses_nothing_and_the_next_one_works(site, hit):
    """SIGKILL at ten random moments, of them one in each phase: of the command, and of each end's program."""
    chance = random.Random(f"{seed()} {hit.__name__}")
    outcomes = []
    for number in range(ROUNDS):
        source, target = where(site)
        sh(source, f"head -c 64M /dev/urandom > {VOLUMES}/orders/big")  # half a second's worth
        phase = PHASES[number // 2] if number % 2 else ""
        before, moment = counted(source), chance.uniform(0, 0.6 if phase else LONGEST)
        run = site.start(source, target)
        if phase:
            assert any(line.strip() == phase for line in run.stderr)
        time.sleep(moment)
        hit(site, source, target, run)
        said = run.communicate(timeout=300)[1]
        quiet(site)
        until(lambda s=source, t=target: site.pods(s).get("shop") or site.pods(t).get("shop"), 60)  # it runs somewhere
        on_source, on_target = (site.pods(host).get("shop", False) for host in (source, target))
        outcomes.append(f"{phase} {moment:.1f} s: exit {run.returncode}, source {on_source}, target {on_target}")
        if run.returncode not in (0, -signal.SIGKILL):
            # cut off from the target in its last moment, it can only say that they are ready there
            assert "shop" in site.pods(source) or f"are ready on {target.name}" in said, outcomes[-1] + said
        again = site.run(*site.words(source, target), "--yes", "-o", "json")
        if again.returncode:  # it had moved, and was confirmed
            assert "no pod has the labels" in again.stdout, outcomes[-1] + again.stdout + again.stderr
        assert counts(target) and counted(target) >= before and "shop" not in site.pods(source), outcomes[-1]
        assert left_over(source) + left_over(target) == "", outcomes[-1]
        for host in site.hosts:
            sweep(host)
    print("", *outcomes, sep="\n  ")


def test_a_pool_that_fills_up_leaves_the_source_serving(site):
    source, target = where(site)
    sh(source, f"head -c 2500M /dev/urandom > {VOLUMES}/orders/big")
    run = site.start(source, target)
    assert any("round 1: " in line for line in run.stderr)
    free = f"$(($(df --output=avail -B1 {POOL} | tail -n1) - 300000000))"  # at once, but for what is being reserved
    sh(target, f"fallocate -l {free} {POOL}/filler || head -c 8G /dev/zero > {POOL}/filler || true")
    _, said = run.communicate(timeout=300)
    sh(target, f"rm -f {POOL}/filler; btrfs filesystem sync {POOL}")
    assert run.returncode == 1 and "No space left on device" in said, said
    quiet(site)
    assert counts(source) and "shop" not in site.pods(target) and left_over(source) + left_over(target) == ""
    assert sh(target, f"ls {VOLUMES}") in ("", "orders\n")
    site.move(source, target)
    assert counts(target)
    sh(target, f"rm {VOLUMES}/orders/big")


def test_a_pool_that_is_too_small_is_told_before(site):
    source, target = where(site)
    sh(source, f"head -c 700M /dev/urandom > {VOLUMES}/orders/big")
    sh(target, f"fallocate -l $(($(df --output=avail -B1 {POOL} | tail -n1) - 300000000)) {POOL}/filler")
    done = site.run(*site.words(source, target), "--yes")
    sh(target, f"rm {POOL}/filler; btrfs filesystem sync {POOL}")
    assert done.returncode == 1 and re.search(r"has \d+ MiB left there, and 7\d\d MiB are to come", done.stderr)
    assert counts(source)
    sh(source, f"rm {VOLUMES}/orders/big")


def test_a_target_that_dies_in_the_middle_leaves_the_source_serving(site):
    source, target = where(site)
    sh(source, f"head -c 700M /dev/urandom > {VOLUMES}/orders/big")
    run = site.start(source, target)
    assert any("round 1: " in line for line in run.stderr)
    sh(target, "systemctl reboot --force --force || true")
    _, said = run.communicate(timeout=300)
    assert run.returncode in (1, 4) and target.name in said, said
    until(lambda: site.pods(source)["shop"], 60)
    assert counts(source)
    until(
        lambda: on_host(target, "systemctl", "is-system-running", check=False).strip() in ("running", "degraded"), 120
    )
    site.move(source, target)
    assert counts(target) and left_over(source) + left_over(target) == ""
    sh(target, f"rm {VOLUMES}/orders/big")


def test_both_hosts_lose_power_while_the_pod_starts(site):
    """Nobody is told anything, and nobody is there to undo it: each host does when it is up again."""
    source, target = where(site)
    needing = counting(app="shop")
    needing["spec"]["volumes"].append({"name": "here", "hostPath": {"path": "/srv/here", "type": "Directory"}})
    sh(source, "mkdir -p /srv/here")
    sh(target, "rm -rf /srv/here")
    site.put(source, needing)
    until(lambda: site.pods(source)["shop"])
    before = counted(source)
    run = site.start(source, target)
    assert any(line == "starting\n" for line in run.stderr)
    until(lambda: "shop" in site.pods(target), 60)
    for host in site.hosts:
        sh(host, "systemctl reboot --force --force || true")
    run.communicate(timeout=400)
    assert run.returncode in (1, 4)
    until(lambda: site.pods(source).get("shop"), 180)
    until(lambda: left_over(source) + left_over(target) == "", 120)
    assert counts(source) and counted(source) >= before
    assert "shop" not in site.pods(target) and sh(target, f"ls {VOLUMES}") in ("", "orders\n")
    sh(target, "mkdir -p /srv/here")
    site.move(source, target)
    assert counts(target)


def test_a_plain_directory_gets_it_as_files_and_several_targets_get_it_all(site, new_host, tmp_path):
    source, target = where(site)
    plain = new_host("mge")
    sh(plain, "mkdir -p /srv/here")  # which the pod of another case wants
    own = {plain.name: {"storage_device": "", "storage_volumes": []}}
    all_three = Site(tmp_path, source, target, plain, own=own)
    sh(source, f"cd {VOLUMES}/orders; head -c 9M /dev/urandom > big; truncate -s 900M sparse; "
               "printf x > \"$(printf 'new\\nline')\"; "
               "chown 1234:5678 big; chmod 4711 big; ln big link; ln -s nowhere soft")  # fmt: skip
    look = f"cd {VOLUMES}/orders; sha256sum big sparse; stat -c '%a %u %g %h %s %n' *; du -m sparse | cut -f1"
    was = sh(source, look).replace("lines", "")
    planned = all_three.ask(*all_three.words(source, plain, target), "--dry-run")
    assert planned["method"] == "tar" and any("loses its size" in note for note in planned["notes"])
    told = all_three.move(source, plain, target)
    assert [one["running"] for one in told["rounds"]] == [False]
    kept = ("big", "link", "soft", "sparse", "new")
    for host in (plain, target):
        assert counts(host) and left_over(host) == ""
        found = sh(host, look).splitlines()
        assert [line for line in found if any(word in line for word in kept)] == [
            line for line in was.splitlines() if any(word in line for word in kept)
        ]
        assert int(found[-1]) < 10  # its holes came as holes
    assert "shop" not in site.pods(source)
    sh(target, "/usr/lib/casemate/bin/casemate-pod remove shop")
    sh(target, f"btrfs subvolume delete {VOLUMES}/orders")
    assert all_three.move(plain, source)["method"] == "tar"
    assert counts(source) and "shop" not in site.pods(plain)
    sh(source, f"cd {VOLUMES}/orders; rm -f big sparse link soft new*")


def test_a_network_that_is_cut_in_the_middle_leaves_the_source_serving(site, tmp_path):
    """Over ssh, as between real machines: the hosts find out by themselves that nobody is there any more."""
    source, target = where(site)
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    ways = {}
    for host in (source, target):
        sh(
            host,
            "dpkg -s openssh-server >/dev/null 2>&1 || { apt-get -qq update; apt-get -qq install openssh-server; }",
        )
        on_host(host, "sh", "-c", "mkdir -pm 700 ~/.ssh; cat > ~/.ssh/authorized_keys",
                stdin=key.with_suffix(".pub").read_text())  # fmt: skip
        ways[host.name] = {
            "ansible_connection": "ssh", "ansible_host": host.ip, "ansible_user": "root",
            "ansible_ssh_private_key_file": str(key), "ansible_become": False,
            "ansible_ssh_common_args": f"-o StrictHostKeyChecking=no -o UserKnownHostsFile={tmp_path}/known",
        }  # fmt: skip
    known = json.loads(state.inventory_path().read_text())["appliance"]["hosts"]
    by_ssh = Site.__new__(Site)
    by_ssh.hosts, by_ssh.inventory = site.hosts, tmp_path / "ssh.json"
    hosts = {name: {"storage_device": known[name]["storage_device"]} | way for name, way in ways.items()}
    by_ssh.inventory.write_text(json.dumps({"appliance": {"hosts": hosts}}))
    sh(source, f"head -c {GIGABYTE} /dev/urandom > {VOLUMES}/orders/big")
    interface = sh(target, "ip -o route get 1 | sed 's/.* dev \\([^ ]*\\).*/\\1/'").strip()
    run = by_ssh.start(source, target)
    assert any("round 1: " in line for line in run.stderr)
    sh(target, f"ip link set {interface} down")
    began = time.monotonic()
    _, said = run.communicate(timeout=400)
    assert run.returncode in (1, 4) and target.name in said, said
    assert counts(source), said
    quiet(site)  # the target was never told
    print(f"found out after {time.monotonic() - began:.0f} s: {said.splitlines()[-2:]}")
    assert "shop" not in site.pods(target) and left_over(target) == ""
    sh(target, f"ip link set {interface} up; systemctl restart systemd-networkd networking 2>/dev/null || true")
    until(lambda: socket.create_connection((target.ip, 22), 2).close() is None, 60)
    assert json.loads(by_ssh.run(*by_ssh.words(source, target), "--yes", "-o", "json").stdout)["downtime"] < 60
    assert counts(target)
