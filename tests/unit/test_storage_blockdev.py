"""What is on a device: asked of the real tools, on image files that stand for devices."""

import shutil
import subprocess

import pytest
from health_fakes import FakeHost, found

from appliance.node.health import blockdev
from appliance.node.health.host import Host

pytestmark = pytest.mark.skipif(not shutil.which("mkfs.btrfs"), reason="needs btrfs-progs")
MIB = 1 << 20


class ImageHost(FakeHost):
    """Runs the real programs."""

    run = Host.run


@pytest.fixture
def host(tmp_path, monkeypatch) -> ImageHost:
    monkeypatch.setattr(blockdev, "is_block_device", lambda path: path.suffix == ".img")
    host = ImageHost(tmp_path)
    host.write("/proc/self/mounts", "/dev/sda1 / ext4 rw 0 0\n")
    (tmp_path / "dev").mkdir()
    image = tmp_path / "dev/disk.img"
    with image.open("wb") as device:
        device.truncate(128 * MIB)
    return host


def image(host):
    return host.path("/dev/disk.img")


def make(*argv):
    subprocess.run(argv, check=True, capture_output=True, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})


def state(host):
    return blockdev.examine(host, "/dev/disk.img")[0]


def finding(host, **settings):
    [one] = found(host, "storage-device", storage_devices=["/dev/disk.img"], **settings)
    return one


def unit(host, what):
    host.write("/etc/systemd/system/var-lib-casemate-pool.mount", f"[Mount]\nWhat={what}\n")


def test_a_device_of_zeros_is_blank_and_needs_no_permission(host):
    assert state(host) == "blank"
    assert finding(host)["ok"]


def test_our_pool_is_adopted_with_its_uuid_even_if_formatting_is_allowed(host):
    make("mkfs.btrfs", "-q", "--label", blockdev.LABEL, str(image(host)))
    found_state, uuid, _ = blockdev.examine(host, "/dev/disk.img")
    assert found_state == "pool" and len(uuid) == 36
    assert finding(host, storage_format=True)["ok"]


@pytest.mark.parametrize(
    "argv",
    [["mkfs.ext4", "-q"], ["mkfs.btrfs", "-q", "--label", "someone-elses"], ["mkswap"]],
    ids=["ext4", "other-btrfs", "swap"],
)
def test_a_file_system_of_others_is_refused_without_permission(host, argv):
    make(*argv, str(image(host)))
    assert state(host) == "used"
    one = finding(host)
    assert not one["ok"] and one["severity"] == "error" and "storage_format: true" in one["cure"]


def test_with_permission_the_erasure_is_a_warning_that_says_what_goes(host):
    make("mkfs.ext4", "-q", "-L", "precious", str(image(host)))
    one = finding(host, storage_format=True)
    assert one["severity"] == "warning" and "ERASED" in one["evidence"] and "precious" in one["evidence"]


def test_a_partition_table_is_content(host):
    with image(host).open("r+b") as device:
        device.seek(446)
        device.write(bytes([0, 2, 3, 0, 0x83, 2, 3, 0]) + (2048).to_bytes(4, "little") + (4096).to_bytes(4, "little"))
        device.seek(510)
        device.write(b"\x55\xaa")
    assert state(host) == "used"


@pytest.mark.parametrize("offset", [1000, 128 * MIB - 10], ids=["start", "end"])
def test_data_without_a_signature_is_content(host, offset):
    with image(host).open("r+b") as device:
        device.seek(offset)
        device.write(b"x")
    assert state(host) == "used"


def test_a_missing_device_and_a_plain_file_are_told_apart(host):
    host.write("/dev/file", "")
    assert blockdev.examine(host, "/dev/none")[0] == "missing"
    assert blockdev.examine(host, "/dev/file")[0] == "not-block"


def test_a_link_below_by_id_is_followed(host):
    host.path("/dev/disk/by-id").mkdir(parents=True)
    host.path("/dev/disk/by-id/x.img").symlink_to("../../disk.img")
    assert blockdev.examine(host, "/dev/disk/by-id/x.img")[0] == "blank"
    assert blockdev.same_device(host, "/dev/disk/by-id/x.img", "/dev/disk.img")


def test_a_blank_device_is_refused_where_the_host_had_a_pool_elsewhere(host):
    unit(host, "/dev/disk/by-uuid/1234")
    one = finding(host, storage_format=True)
    assert not one["ok"] and "1234" in one["evidence"]


def test_a_pool_mounted_from_another_device_is_refused(host):
    host.write("/proc/self/mounts", f"/dev/other {blockdev.POOL} btrfs rw 0 0\n")
    assert "/dev/other" in finding(host, storage_format=True)["evidence"]


def test_forgetting_the_device_of_a_mounted_pool_is_an_error(host):
    host.write("/proc/self/mounts", f"/dev/other {blockdev.POOL} btrfs rw 0 0\n")
    [one] = found(host, "storage-device")
    assert one["severity"] == "error" and "storage_device: /dev/other" in one["cure"]


def test_a_device_is_not_mounted_over_a_directory_in_use(host):
    host.write(f"{blockdev.POOL}/volumes/data", "x")
    assert "volumes" in finding(host)["evidence"]


def test_a_directory_instead_of_a_device_is_said_plainly(host):
    [one] = found(host, "storage-device")
    assert one["severity"] == "warning" and "plain directory on ext4" in one["evidence"]


def test_doctor_misses_a_pool_that_is_not_mounted(host):
    host.path(blockdev.POOL).mkdir(parents=True)
    unit(host, "/dev/sdb")
    [one] = found(host, "storage", entry="doctor")
    assert not one["ok"] and one["severity"] == "error" and "/dev/sdb" in one["cause"]
