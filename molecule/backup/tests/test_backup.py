"""Role backup: its files are root's alone, its timer waits, and what it installed makes a backup and brings it back."""

import json

import pytest

PROGRAM = "/usr/lib/casemate/bin/casemate-backup"
VOLUME = "/var/lib/casemate/pool/volumes/orders"


def test_the_password_is_for_root_alone_and_not_among_what_is_declared(host):
    assert host.file("/etc/casemate/backup.password").mode == 0o600
    assert host.file("/etc/casemate/backup.password").content_string == "of a test\n"
    assert "of a test" not in host.file("/etc/casemate/backup.json").content_string
    assert not host.file("/etc/casemate/backup.env").exists


def test_the_timer_waits_for_its_time(host):
    timer = host.service("casemate-backup.timer")
    assert timer.is_running and timer.is_enabled
    assert "OnCalendar=weekly" in host.file("/etc/systemd/system/casemate-backup.timer").content_string


@pytest.fixture
def volume(host):
    """A volume of a pool that is a plain directory; the host and its disk are other scenarios' as well."""
    host.run_test(f"mkdir -p {VOLUME}")
    yield
    host.run_test("rm -r /var/lib/casemate/pool")


def test_a_volume_is_saved_and_comes_back(host, volume):
    host.run_test(f"echo before > {VOLUME}/file")
    made = json.loads(host.check_output(f"{PROGRAM} now"))
    assert made["ok"] and made["everything"] and not made["consistent"]
    host.run_test(f"echo after > {VOLUME}/file")
    back = json.loads(host.check_output(f"{PROGRAM} restore --volume orders"))
    assert host.file(f"{VOLUME}/file").content_string == "before\n"
    assert host.check_output(f"cat {back['replaced'][0]}/file") == "after"
