"""Pods one after the other and many at once, and engine and programs replaced beneath them: nothing is lost or left.

The scripts of tests/inside named below do it on a lab host.
"""

import pytest

from tests.conftest import inside

pytestmark = pytest.mark.lab


def test_a_few_starts_and_stops_leave_nothing(deployed_host):
    assert inside(deployed_host, "many", "row", "5")["left"] == {}


@pytest.mark.full
def test_two_hundred_starts_and_stops_leave_nothing_and_no_program_grows(deployed_host, record_property):
    seen = inside(deployed_host, "many", "row", "200", timeout=7200)
    record_property("row", seen)
    assert seen["left"] == {}
    assert seen["engine_mib"][1] < seen["engine_mib"][0] + 30, seen["engine_mib"]
    assert seen["shim_mib"][1] < seen["shim_mib"][0] + 5, seen["shim_mib"]


@pytest.mark.full
def test_twenty_pods_declared_at_once_all_come_up(deployed_host, record_property):
    seen = inside(deployed_host, "many", "crowd", "20", timeout=3600)
    record_property("crowd", seen)
    assert (seen["ready"], seen["problems"], seen["left"]) == (20, [], {})
    assert (seen["restarts"], seen["cold"]) == (0, 0), "a guest has missed its deadline in the crowd"


@pytest.fixture(scope="module")
def upgraded(deployed_host):
    return inside(deployed_host, "upgrades", "plain", timeout=1200)


def judge(seen: dict) -> None:
    """Assert that the pod outlived each step, and that new ones start after it."""
    assert seen["rows"]
    for row in seen["rows"]:
        assert row["pids_same"] and row["state"] == 1, row
        assert row["exec"] == row["new_pod"] == [0, "alive\n"], row
    assert seen["code"] not in (0, None)


def test_a_pod_outlives_its_engine_and_the_release_that_made_it(upgraded):
    judge(upgraded)


def test_a_release_stays_while_it_serves_a_pod_and_no_longer(upgraded):
    row = next(row for row in upgraded["rows"] if row["step"] == "five releases later")
    assert row["first_kept"] and row["by"] and not row["too_many"]


def test_what_ends_while_the_engine_is_away_is_told_afterwards(upgraded):
    away = upgraded["away"]
    assert (away["ends"], away["stays"]) == (7, [0, "alive\n"])
    assert away["dies"] not in (0, None) and away["shimless"] not in (0, None)
    assert away["ready"] == [True, False, False]


@pytest.mark.full
def test_a_pod_outlives_upgrades_and_downgrades_of_the_engine_and_of_qemu(deployed_host):
    seen = inside(deployed_host, "upgrades", "packages", timeout=3600)
    judge(seen)
    assert all(row["installed"] for row in seen["rows"])
