"""Storage: a btrfs pool on the given device, mounted by systemd, a subvolume for each directory."""

POOL = "/var/lib/casemate/pool"


def test_the_pool_is_btrfs_on_the_given_device_without_access_times(host):
    mount = host.mount_point(POOL)
    assert mount.exists
    assert mount.filesystem == "btrfs"
    assert mount.device.startswith("/dev/loop")
    assert "noatime" in mount.options


def test_the_pool_is_mounted_at_every_boot(host):
    unit = host.service("var-lib-casemate-pool.mount")
    assert unit.is_enabled
    assert unit.is_running


def test_each_directory_is_a_subvolume_of_its_own(host):
    listed = host.check_output(f"btrfs subvolume list {POOL} | awk '{{print $NF}}'").split()
    assert {"volumes", "molecule"} <= set(listed)


def test_the_pool_can_be_written_to(host):
    assert host.check_output(f"echo kept > {POOL}/volumes/.molecule; cat {POOL}/volumes/.molecule") == "kept"
    host.check_output(f"rm {POOL}/volumes/.molecule")


def test_volumes_that_pods_may_claim_are_subvolumes_and_keep_to_their_size(host):
    listed = host.check_output(f"btrfs subvolume list {POOL} | awk '{{print $NF}}'").split()
    assert {"volumes/plain", "volumes/small"} <= set(listed)
    host.check_output(
        f"dd if=/dev/zero of={POOL}/volumes/plain/x bs=1M count=20 conv=fsync && rm {POOL}/volumes/plain/x"
    )
    full = host.run(f"dd if=/dev/zero of={POOL}/volumes/small/x bs=1M count=20 conv=fsync")
    host.run(f"rm -f {POOL}/volumes/small/x")
    assert full.rc != 0 and "quota" in full.stderr


def test_the_pool_is_looked_after(host):
    for timer in ("casemate-scrub.timer", "casemate-snapshots.timer"):
        assert host.service(timer).is_enabled and host.service(timer).is_running
    assert host.service("casemate-storage").is_enabled
    assert host.check_output("/usr/lib/casemate/bin/casemate-storage settle") == '{"done": []}'


def test_a_volume_with_a_schedule_gets_its_snapshot_and_no_second_one(host):
    for _ in range(2):
        host.check_output("systemctl start casemate-snapshots")
    found = host.check_output(f"ls {POOL}/snapshots/small").split()
    assert len(found) == 1
    assert host.run(f"touch {POOL}/snapshots/small/{found[0]}/x").rc != 0


def test_no_smart_is_not_told_as_good(host):
    checks = host.check_output("/usr/lib/casemate/bin/casemate-health doctor")
    assert "storage-devices" in checks and "storage-smart" not in checks
