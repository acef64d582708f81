"""Doctor on backups: the last run, and the age of the last good one."""

import json
import time

import pytest
from health_fakes import FakeHost, bare, found


@pytest.fixture
def host(tmp_path) -> FakeHost:
    return bare(tmp_path)


def declare(host, last: dict | None = None, good_hours: float | None = None) -> None:
    host.write("/etc/casemate/backup.json", json.dumps({"repository": "/srv/b", "host": "h", "max_age_hours": 26}))
    known = {"last": last} if last else {}
    if good_hours is not None:
        known["last_good"] = {"ok": True, "id": "abcd1234", "ended": time.time() - good_hours * 3600}
    host.write("/var/lib/casemate/backup/status.json", json.dumps(known))


def wrong(host) -> list[tuple[str, str]]:
    return [(one["id"], one["evidence"]) for one in found(host, "backup", "doctor") if not one["ok"]]


def test_a_host_without_declared_backups_has_no_finding(host):
    assert found(host, "backup", "doctor") == []


def test_a_good_one_of_yesterday_is_well(host):
    declare(host, {"ok": True}, 20)
    (one,) = found(host, "backup", "doctor")
    assert one["ok"] and "abcd1234" in one["evidence"]


@pytest.mark.parametrize(
    ("last", "good", "expected"),
    [
        (None, None, [("backup-age", "there is no good backup yet")]),
        ({"ok": True}, 30, [("backup-age", "the last good backup is 30 hours old")]),
        ({"ok": False, "error": "no route", "ended": 0}, 1, [("backup-last", "failed: no route")]),
    ],
)
def test_what_is_wrong_is_a_warning_with_its_reason(host, last, good, expected):
    declare(host, last, good)
    assert [(name, said in evidence) for (name, evidence), (_, said) in zip(wrong(host), expected, strict=True)] == [
        (name, True) for name, _ in expected
    ]
