"""What is on a device: asked of the real tools, on image files that stand for devices."""

import errno
import os
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


def second(host, size=128 * MIB):
    with host.path("/dev/other.img").open("wb") as device:
        device.truncate(size)
    return ["/dev/disk.img", "/dev/other.img"]


def findings(host, devices, **settings):
    return found(host, "storage-device", storage_devices=devices, **settings)


def test_every_device_is_looked_at_with_the_same_care(host):
    devices = second(host)
    assert [one["ok"] for one in findings(host, devices)] == [True]
    make("mkfs.ext4", "-q", str(host.path(devices[1])))
    [one] = findings(host, devices)
    assert not one["ok"] and one["severity"] == "error" and "/dev/other.img is not empty" in one["evidence"]
    [one] = findings(host, [*devices[:1], "/dev/none"])
    assert not one["ok"] and one["severity"] == "error" and "/dev/none" in one["evidence"]


def test_devices_of_two_pools_of_ours_are_refused_even_if_formatting_is_allowed(host):
    devices = second(host)
    for device in devices:
        make("mkfs.btrfs", "-q", "--label", blockdev.LABEL, str(host.path(device)))
    [one] = findings(host, devices, storage_format=True)
    assert not one["ok"] and one["severity"] == "error" and "another deploy" in one["cause"]


def test_a_pool_of_two_is_taken_whole_and_with_one_missing_it_is_said(host):
    devices = second(host)
    make(
        "mkfs.btrfs",
        "-q",
        "-d",
        "raid1",
        "-m",
        "raid1",
        "--label",
        blockdev.LABEL,
        *(str(host.path(d)) for d in devices),
    )
    assert [one["ok"] for one in findings(host, devices)] == [True]
    host.path(devices[1]).unlink()
    assert {one["severity"] for one in findings(host, devices)} == {"warning"}
    [one] = findings(host, devices[:1])
    assert not one["ok"] and one["severity"] == "warning" and "has 2 devices, 1 of them" in one["evidence"]


def mounted(host, uuid):
    """A raid1 pool of two, of which the kernel shows the second one as missing."""
    shown = f"/sys/fs/btrfs/{uuid}"
    host.write("/proc/self/mounts", f"/dev/disk.img {blockdev.POOL} btrfs rw 0 0\n")
    host.write(f"{shown}/devices/disk.img", "")
    host.write(f"{shown}/exclusive_operation", "none\n")
    for kind, count in (("data", 4 << 20), ("metadata", 1 << 20), ("system", 1 << 14)):
        host.write(f"{shown}/allocation/{kind}/bytes_used", f"{count}\n")
        host.write(f"{shown}/allocation/{kind}/raid1/total_bytes", f"{count}\n")
    for number, missing in ((1, 0), (2, 1)):
        host.write(f"{shown}/devinfo/{number}/missing", f"{missing}\n")
        host.write(f"{shown}/devinfo/{number}/error_stats", "write_errs 0\nread_errs 0\n")


def test_a_pool_that_lacks_a_device_is_told_and_a_new_device_will_take_its_place(host):
    devices = second(host)
    make(
        "mkfs.btrfs",
        "-q",
        "-d",
        "raid1",
        "-m",
        "raid1",
        "--label",
        blockdev.LABEL,
        *(str(host.path(d)) for d in devices),
    )
    mounted(host, blockdev.examine(host, "/dev/disk.img")[1])
    host.path(devices[1]).unlink()
    [one] = found(host, "storage-devices", entry="doctor")
    assert not one["ok"] and "degraded: 1 of 2 devices missing" in one["evidence"]
    [one] = findings(host, second(host))
    assert one["ok"] and one["evidence"].startswith("will replace device 2 of the pool by /dev/other.img")


def test_a_former_device_of_the_pool_is_not_taken_back_by_itself(host):
    devices = second(host)
    make(
        "mkfs.btrfs",
        "-q",
        "-d",
        "raid1",
        "-m",
        "raid1",
        "--label",
        blockdev.LABEL,
        *(str(host.path(d)) for d in devices),
    )
    mounted(host, blockdev.examine(host, "/dev/disk.img")[1])
    [one] = findings(host, devices)
    assert not one["ok"] and one["severity"] == "error" and "went on without it" in one["cause"] + one["evidence"]


def test_errors_that_btrfs_counted_are_told_with_the_device(host):
    make("mkfs.btrfs", "-q", "--label", blockdev.LABEL, str(image(host)))
    uuid = blockdev.examine(host, "/dev/disk.img")[1]
    mounted(host, uuid)
    host.write(f"/sys/fs/btrfs/{uuid}/devinfo/1/error_stats", "write_errs 0\ncorruption_errs 3\n")
    one, last = found(host, "storage-errors", entry="doctor")
    assert not one["ok"] and one["evidence"] == "errors of /dev/disk.img: 3 corruption"
    assert last["ok"] and "no scrub yet" in last["evidence"]


@pytest.fixture
def held(host, monkeypatch):
    """An image that is opened exclusively by somebody else, as often as the list says."""
    busy, real = [], os.open

    def refuse(path, flags, *rest):
        if flags & os.O_EXCL and busy:
            busy.pop()
            raise OSError(errno.EBUSY, "Device or resource busy")
        return real(path, flags, *rest)

    monkeypatch.setattr(os, "open", refuse)
    return busy


def test_a_device_that_is_held_for_a_moment_only_is_not_in_use(host, held):
    held += [1, 1]
    assert state(host) == "blank"


def test_a_device_that_stays_held_is_in_use(host, held, monkeypatch):
    monkeypatch.setattr(blockdev, "PROBED_SECONDS", 0.1)
    held += [1] * 99
    assert blockdev.examine(host, "/dev/disk.img")[::2] == (
        "busy",
        "unknown content; in use (swap or part of another device)",
    )
