"""Declared pods on a deployed host, from their manifest's arrival to their end.

tests/inside/pods_life.py and undisturbed.py do what is asserted here.
"""

import pytest

from tests import images
from tests.conftest import inside

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def arrivals(deployed_host):
    return inside(deployed_host, "pods_life", "arrivals")


@pytest.fixture(scope="module")
def ends(deployed_host):
    return inside(deployed_host, "pods_life", "ends")


@pytest.fixture(scope="module")
def undisturbed(deployed_host):
    images.load(deployed_host, "nginx")
    return inside(deployed_host, "undisturbed", "plain")


def test_a_manifest_is_picked_up_however_and_whenever_it_arrives(arrivals, record_property):
    record_property("picked_up", arrivals["picked_up"])
    assert [way for way, (_, there) in arrivals["picked_up"].items() if not there] == []
    assert (arrivals["ready"], arrivals["gaps_ready"]) == (True, True)
    assert arrivals["sync_still_ran"] == "activating", "the sync that was to be met was over"


def test_a_changed_manifest_replaces_the_pod_its_log_and_its_count(arrivals):
    assert arrivals["replaced"] and arrivals["replaced_ready"]
    assert (arrivals["replaced_log"], arrivals["replaced_restarts"]) == ("second\n", 0)


def test_two_syncs_at_once_agree_and_touch_no_runner_that_is_current(arrivals):
    assert (arrivals["two_syncs"], arrivals["untouched"]) == ([0, 0, []], True)


def test_a_removed_manifest_takes_all_of_its_pod_with_it(arrivals):
    assert (arrivals["left"], arrivals["left_files"], arrivals["left_logs"]) == ([], [], [])


@pytest.mark.parametrize(
    ("name", "state", "code", "log"),
    [
        ("job", "succeeded", 0, "all of it\n"),
        ("bad-job", "failed", 3, "its last words\n"),
        ("vm-job", "succeeded", 0, "from a guest\n"),
    ],
)
def test_a_finished_pod_gives_back_its_sandbox_and_keeps_its_log_and_exit_code(ends, name, state, code, log):
    job = ends["jobs"][name]
    assert (job["state"], job["exit_codes"], job["log"], job["up"]) == (state, {"main": code}, log, [False])
    assert job["status"]["ActiveState"] == "active"
    assert job["status"]["StatusText"].startswith(state)
    assert ends["guests_of_jobs"] == []


def test_a_finished_pod_is_not_run_again_by_the_next_runner(ends):
    assert ends["jobs_run_again"] is False


def test_a_hung_container_is_killed_by_its_liveness_probe_and_the_one_beside_it_is_not(ends):
    assert ends["hung"]["attempt"] >= 1
    assert (ends["hung"]["beside"], ends["hung"]["events"]) == (0, True)


def test_a_pod_that_ignores_sigterm_has_its_whole_grace_period_and_no_more(ends):
    assert (ends["stubborn"]["terms"], ends["stubborn"]["gone"]) == (1, True)
    assert ends["stubborn"]["lived_on_s"] > 6 - 1, "it was killed before its time"


def test_a_crash_loop_backs_off_and_counts_on_under_another_runner(ends):
    loop = ends["looping"]
    assert loop["waits"][:2] == ["10 s after its end", "20 s after its end"]
    assert loop["last_wait_s"] is None or loop["last_wait_s"] >= 10, "started before its time"
    assert (loop["state"], loop["ready"], loop["exit_codes"], loop["log"]) == ("running", False, {"main": 3}, ["again"])
    assert loop["restarts"] >= 3


def test_a_crash_loop_is_told_by_list_status_and_journal(ends):
    loop = ends["looping"]
    words = "CrashLoopBackOff: container main exited 3; next start after "
    assert loop["reason"].startswith(words)
    assert loop["status"].startswith(f"running: {words}")
    assert {"Started", "BackOff", "Adopted"} <= set(loop["events"])
    assert set(loop["warned"]) == {"4"}


def judge(seen: dict, handlers: int = 2) -> None:
    assert seen["rows"]
    for row in seen["rows"]:
        assert row["same"] == {"runc": True, "microvm": True}, row
        assert row["ready"], row
    assert seen["restarts"] == [0] * handlers
    # Debian 13's sources have one version of the engine, which is then replaced by itself, once
    assert min(seen["asked"]) >= 20 * len(seen["rows"])
    assert seen["failed"] == [[]] * handlers


def test_neither_runner_nor_engine_is_missed_by_a_pod_or_its_clients(undisturbed):
    judge(undisturbed)


@pytest.mark.full
def test_upgrades_of_the_engine_are_not_missed_by_a_pod_or_its_clients(deployed_host, undisturbed):
    judge(inside(deployed_host, "undisturbed", "packages", timeout=1800))


@pytest.mark.full
def test_junk_lost_directories_and_a_full_disk_disturb_no_pod(deployed_host):
    seen = inside(deployed_host, "pods_life", "hostile", timeout=1800)
    assert (seen.pop("full"), seen.pop("two_removals")) == (28, [0, False, False])
    assert [what for what, well in seen.items() if not well] == []
