"""A pool of several devices on a host: made, one lost, replaced, grown, shrunk; its volumes, their snapshots, and pods
whose pool is not there. Each case goes on where the one before ended."""

import base64
import json
import mmap
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from appliance.lab import nspawn, state
from appliance.lab.leader import leader_of
from tests.conftest import appliance, on_host
from tests.e2e.backup_site import pod

pytestmark = [pytest.mark.lab, pytest.mark.full]
POOL = "/var/lib/casemate/pool"
POD = "/usr/lib/casemate/bin/casemate-pod"
# High, for `losetup --find` gives other hosts the lowest free one. A number of ours that is free may still be given to
# one of them, so the host's own node goes with the disk.
_FIRST_LOOP = 200


class Disk:
    """A disk of a lab host that can be put in and taken out."""

    def __init__(self, host, file: Path, mib: int) -> None:
        self.host, self.file = host, file
        self.resize(mib)
        number = next(n for n in range(_FIRST_LOOP, 256) if not Path(f"/sys/block/loop{n}/loop").exists())
        self.number, self.device = number, f"/dev/loop{number}"
        if not Path(self.device).exists():
            subprocess.run(["mknod", self.device, "b", "7", str(number)], check=True)
        subprocess.run(["losetup", self.device, str(file)], check=True)
        self.show()

    def show(self) -> None:
        """Have the host see it; a reboot makes its /dev anew."""
        on_host(self.host, "sh", "-c", f"test -e {self.device} || mknod {self.device} b 7 {self.number}")

    def resize(self, mib: int) -> None:
        with self.file.open("ab") as file:
            file.truncate(mib << 20)
        if hasattr(self, "device"):
            subprocess.run(["losetup", "--set-capacity", self.device], check=True)

    def take_out(self) -> None:
        """Gone as soon as the host has it mounted no more."""
        on_host(self.host, "rm", "-f", self.device)
        subprocess.run(["losetup", "--detach", self.device], check=True)


class Site:
    """A host with a pod that writes to a volume, and what it is deployed with."""

    def __init__(self, host, directory: Path) -> None:
        self.host, self.inventory = host, directory / "site.yml"
        self.known = json.loads(state.inventory_path().read_text())["appliance"]["hosts"][host.name]
        self.first = self.known.pop("storage_device")
        self.variables = {
            "storage_devices": [self.first], "engine_default_handler": "runc", "pods_demo": True,
            "pods_demo_port": 8081, "microvm_sizes": [{"name": "small", "memory_mib": 256, "vcpus": 1}],
            "storage_volumes": [
                {"name": "orders", "size": "64M", "snapshots": {"schedule": "hourly", "keep": {"hourly": 24}}},
                {"name": "bulk"},
            ],
            "pods": [pod("shop", "orders", app="shop")],
        }  # fmt: skip

    def run(self, *words: str):
        tree = {"appliance": {"vars": self.variables, "hosts": {self.host.name: self.known}}}
        self.inventory.write_text(yaml.safe_dump(tree))
        return appliance(*words, "-i", str(self.inventory))

    def deploy(self, *devices: str) -> str:
        """What it says; the pool is as declared when this returns."""
        self.variables["storage_devices"] = list(devices)
        done = self.run("deploy")
        assert done.returncode == 0, done.stdout + done.stderr
        self.sh("while [ $(systemctl show -P ActiveState casemate-storage) = activating ]; do sleep 1; done")
        return done.stdout + done.stderr

    def ask(self, *words: str) -> dict:
        done = self.run(*words, "-o", "json")
        told = json.loads(done.stdout)
        return told["hosts"][0] if "hosts" in told else told

    def finding(self, identity: str) -> dict | None:
        return next((one for one in self.ask("doctor")["checks"] if one["id"] == identity), None)

    def sh(self, script: str) -> str:
        return on_host(self.host, "sh", "-c", script)

    def profiles(self) -> set[str]:
        lines = self.sh(f"btrfs filesystem df {POOL}").splitlines()
        return {line.split(",")[1].split(":")[0].strip() for line in lines if not line.startswith("Global")}

    def members(self) -> dict[str, int]:
        """Bytes in use of each device."""
        lines = self.sh(f"btrfs filesystem show --raw {POOL}").splitlines()
        return {line.split()[-1]: int(line.split()[3]) for line in lines if "devid" in line}

    def sound(self) -> None:
        self.sh(f"cd {POOL}/volumes/bulk && sha256sum --quiet --check sums")

    def reboot(self, off: Disk) -> None:
        """Take a disk out while the host boots anew."""
        before = leader_of(self.host.root)
        off.take_out()
        subprocess.run(nspawn.shell(self.host, ["systemctl", "reboot"]), check=False, capture_output=True)
        deadline = time.monotonic() + 180
        while leader_of(self.host.root) in (before, None) or nspawn.state(self.host) not in nspawn.STATES_UP:
            assert time.monotonic() < deadline, f"{self.host.name} did not come back"
            time.sleep(1)
        assert not Path(f"/sys/block/loop{off.number}/loop").exists(), f"{off.device} is still in use"


@pytest.fixture(scope="module")
def site(new_host, tmp_path_factory):
    return Site(new_host("sg"), tmp_path_factory.mktemp("storage"))


@pytest.fixture(scope="module")
def disk(site, tmp_path_factory):
    """A function that puts a disk of some MiB into the host."""
    made: list[Disk] = []

    def make(mib: int) -> Disk:
        made.append(Disk(site.host, tmp_path_factory.mktemp("disk") / "image", mib))
        return made[-1]

    yield make
    for one in made:  # busy ones go with their host
        subprocess.run(["losetup", "--detach", one.device], check=False, capture_output=True)


@pytest.fixture(scope="module")
def second(site, disk) -> Disk:
    """The pool, made of two devices."""
    made = disk(4096)
    site.deploy(site.first, made.device)
    site.sh(f"cd {POOL}/volumes/bulk && for n in 1 2 3; do head -c 100M /dev/urandom > $n; done && "
            "sha256sum 1 2 3 > sums && sync")  # fmt: skip
    return made


@pytest.fixture(scope="module")
def third(site, disk, second) -> Disk:
    """In place of the second one, which is lost."""
    site.reboot(second)
    return disk(6144)


def test_a_pool_of_two_devices_has_everything_twice(site, second):
    assert site.profiles() == {"RAID1"}
    assert set(site.members()) == {site.first, second.device}
    assert site.finding("storage-devices")["ok"]
    assert "0 changed" in site.deploy(site.first, second.device)


def test_after_a_reboot_without_one_it_mounts_says_so_and_serves(site, third):
    assert "degraded" in site.sh(f"findmnt -no OPTIONS {POOL}")
    told = site.finding("storage-devices")
    assert not told["ok"] and "1 of 2 devices missing" in told["evidence"] and "storage_devices" in told["cure"]
    assert site.ask("status")["health"] == "degraded"
    site.sound()
    site.sh(f"{POD} sync --wait=120")
    site.sh(f"cd {POOL}/volumes/bulk && head -c 50M /dev/urandom > 4 && sha256sum 4 >> sums && sync")


def test_a_new_device_takes_the_place_of_the_lost_one(site, third):
    site.variables["storage_devices"] = [site.first, third.device]
    planned = site.run("plan")
    assert f"would replace device 2 of the pool by {third.device}" in planned.stdout + planned.stderr
    site.deploy(site.first, third.device)
    assert set(site.members()) == {site.first, third.device} and site.profiles() == {"RAID1"}
    assert site.finding("storage-devices")["ok"]
    site.sound()
    site.sh("systemctl start casemate-scrub")
    assert "scrub of" in site.finding("storage-errors")["evidence"] and site.finding("storage-errors")["ok"]


def test_what_is_damaged_on_one_device_is_put_right_from_the_other_and_told(site, third):
    begins = base64.b64decode(site.sh(f"head -c 4096 {POOL}/volumes/bulk/1 | base64"))
    with third.file.open("r+b") as raw, mmap.mmap(raw.fileno(), 0) as image:
        at = image.find(begins)
        assert at > 0
        image[at : at + 8192] = b"damaged!" * 1024
    subprocess.run(["blockdev", "--flushbufs", third.device], check=True)
    site.sh("systemctl start casemate-scrub || true")
    told = site.finding("storage-errors")
    assert not told["ok"] and told["severity"] == "warning" and "all of them corrected" in told["evidence"]
    assert not site.finding(f"storage-errors-loop{third.number}")["ok"]
    site.sound()
    site.sh(f"btrfs device stats --reset {POOL}; systemctl start casemate-scrub")
    assert site.finding("storage-errors")["ok"]


def test_a_device_that_became_larger_is_used_whole(site, third):
    third.resize(7168)
    site.deploy(site.first, third.device)
    assert site.members()[third.device] == 7168 << 20


def test_a_further_device_is_added_and_leaves_again_with_nothing_lost(site, third, disk):
    fourth = disk(3072)
    site.deploy(site.first, third.device, fourth.device)
    assert set(site.members()) == {site.first, third.device, fourth.device} and site.profiles() == {"RAID1"}
    site.deploy(site.first, third.device)
    assert set(site.members()) == {site.first, third.device} and site.profiles() == {"RAID1"}
    site.sound()


def test_a_device_does_not_leave_where_the_rest_is_too_small(site, third, disk):
    small = disk(640)
    site.variables["storage_devices"] = [site.first, small.device]
    done = site.run("deploy")
    assert done.returncode == 1 and "what is in the pool needs" in done.stdout + done.stderr
    assert set(site.members()) == {site.first, third.device}
    site.variables["storage_devices"] = [site.first, third.device]


def test_devices_with_content_and_of_another_pool_are_refused(site, third, disk):
    other = disk(512)
    for command, words in ((["mkfs.ext4", "-q"], "is not empty"),
                           (["mkfs.btrfs", "-qf", "-L", "casemate-pool"], "another deploy")):  # fmt: skip
        subprocess.run([*command, other.device], check=True, capture_output=True)
        site.variables["storage_devices"] = [site.first, third.device, other.device]
        done = site.run("deploy")
        assert done.returncode == 1 and words in done.stdout + done.stderr
    site.variables["storage_devices"] = [site.first, third.device]
    assert set(site.members()) == {site.first, third.device}


def test_a_volume_is_not_made_smaller_than_what_it_holds_and_a_full_one_is_told(site, third):
    site.sh(f"head -c 62M /dev/urandom > {POOL}/volumes/orders/fill; sync")
    told = site.finding("storage-volumes-orders")
    assert not told["ok"] and "of 64 MiB used" in told["evidence"]
    site.variables["storage_volumes"][0]["size"] = "32M"
    done = site.run("deploy")
    assert done.returncode == 1 and "its size in the inventory is 32M" in done.stdout + done.stderr
    site.variables["storage_volumes"][0]["size"] = "128M"
    site.deploy(site.first, third.device)
    assert site.finding("storage-volumes-orders") is None
    site.sh(f"rm {POOL}/volumes/orders/fill")


def test_a_volume_goes_back_to_its_snapshot_and_what_it_was_is_kept(site, third):
    made = site.ask("volumes", "snapshot", "orders")["name"]
    before = site.sh(f"cat {POOL}/snapshots/orders/{made}/lines").split()
    site.sh(f"echo damaged > {POOL}/volumes/orders/lines")
    done = site.ask("volumes", "rollback", "orders", "--to", made, "--yes")
    assert done["users"] == ["shop"] and site.sh(f"head -n 1 {done['replaced']}/lines") == "damaged\n"
    assert site.sh(f"cat {POOL}/volumes/orders/lines").split()[: len(before)] == before
    assert {one["name"]: one["ready"] for one in site.ask("status")["pods"]}["shop"]
    site.sh("systemctl start casemate-snapshots")
    orders = next(one for one in site.ask("volumes")["volumes"] if one["name"] == "orders")
    assert orders["pods"] == ["shop"] and orders["size"] == 128 << 20 and orders["schedule"] == "hourly"
    assert made in [one["name"] for one in orders["snapshots"]] and any(
        not one["manual"] for one in orders["snapshots"]
    )
    assert site.ask("volumes", "drop", "orders", made)["name"] == made
    assert site.run("volumes", "rollback", "orders", "--to", made, "--yes").returncode == 1


def test_without_its_pool_a_pod_waits_with_the_reason_and_others_run(site, third):
    site.sh(f"mv /etc/casemate/pods/shop.yaml /root; {POD} sync; systemctl stop var-lib-casemate-pool.mount; "
            f"mv /root/shop.yaml /etc/casemate/pods; {POD} sync --wait=20 || true")  # fmt: skip
    pods = {one["name"]: one for one in site.ask("pods")["pods"]}
    uuid = json.loads(site.sh("cat /etc/casemate/storage.json"))["uuid"]
    assert not pods["shop"]["ready"] and f"the pool {uuid} is not mounted" in pods["shop"]["reason"]
    assert pods["demo"]["ready"]
    assert not site.finding("storage")["ok"] and site.ask("status")["health"] == "failed"
    assert site.run("volumes", "snapshot", "orders").returncode == 1
    assert site.sh(f"ls -A {POOL}") == ""
    site.sh(f"systemctl start var-lib-casemate-pool.mount; {POD} sync --wait=120")
    site.sound()


def test_work_that_is_killed_goes_on_by_itself(site, third):
    site.sh(f"btrfs balance start -f -dconvert=single,soft -mconvert=dup,soft {POOL}")
    assert "RAID1" not in site.profiles()
    site.sh("systemctl start --no-block casemate-storage; "
            "for i in $(seq 400); do pgrep -f '[b]trfs balance start' && break; sleep 0.05; done; "
            "systemctl kill --signal=KILL casemate-storage")  # fmt: skip
    deadline = time.monotonic() + 240
    while site.profiles() != {"RAID1"}:
        assert time.monotonic() < deadline, site.sh("systemctl status --no-pager casemate-storage || true")
        time.sleep(2)
    assert "main process exited, code=killed" in site.sh("journalctl -u casemate-storage --no-pager").lower()
    site.sound()
