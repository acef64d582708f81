"""What the microVM runtime does on a deployed lab host: driven through CRI there by tests/inside/lifecycle.py."""

import os

import pytest

from tests.conftest import inside

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def seen(deployed_host):
    return inside(deployed_host, "lifecycle")


def test_a_pods_guest_starts_from_the_template_and_tells_its_own_kernel(seen):
    assert seen["info"]["started_from"] == "template", seen["info"]["notes"]
    assert seen["info"]["guest_kernel"] == seen["exec_kernel"] != os.uname().release


def test_exit_codes_and_both_outputs_are_exact(seen):
    assert seen["first_code"] == 42
    assert seen["first_log"] == {"stdout": "out\n", "stderr": "err\n"}


def test_containers_of_a_pod_share_localhost_and_the_pods_address_reaches_them(seen):
    assert (seen["localhost_code"], seen["localhost"]["stdout"]) == (0, "hello\n")
    assert "hello" in seen["from_host"]


def test_exec_runs_in_the_guest_with_its_code_and_both_outputs(seen):
    assert seen["exec"] == [7, "one\n", "two\n"]
    assert "`/no/such/program` not found" in seen["exec_missing"]


def test_user_environment_directory_and_volumes_are_the_containers_own(seen):
    assert seen["user_code"] == 0
    assert seen["user"]["stdout"] == "0\n0\n/www\nhello env\nfrom host\na file\nseen later\n"
    assert "/ro/x: Read-only file system" in seen["user"]["stderr"]
    assert seen["written"] == "written\n"
    assert seen["nobody"]["stdout"] == "1234\n5678\n" and seen["nobody_owner"] == [1234, 5678]


def test_signals_reach_the_program_and_a_kill_ends_it(seen):
    assert (seen["trap_code"], seen["trap"]["stdout"]) == (9, "ready\ngot it\n")
    assert seen["stubborn_code"] == 137
    assert seen["stubborn_left"] == "alive\n", "killing one container must leave the others"


def test_no_byte_of_a_flood_is_lost(seen):
    assert (seen["flood_code"], seen["flood_bytes"], seen["flood_end"]) == (0, 20_000_000, "end\n")


def test_a_program_that_is_not_there_is_refused_in_the_guests_words(seen):
    assert "/no/such/program" in seen["bad_program"]


def test_a_containers_limits_hold_in_the_guest_and_only_there(seen):
    assert seen["limited"]["stdout"] == "67108864\n50000 100000\n"
    assert seen["greedy_code"] == 137
    assert seen["restart_code"] == 3, "the pod must outlive a container that was out of memory"


def test_a_pods_limits_choose_the_size_of_its_guest(seen):
    assert seen["big_info"]["memory_mib"] >= 300 + 96


def test_two_guests_of_one_template_share_no_identity(seen):
    name, _, boot_id, randomness, clock, _ = seen["exec_identity"]
    other_name, other_boot_id, other_randomness, _ = seen["other_identity"]
    assert name != other_name and boot_id != other_boot_id and randomness != other_randomness
    assert abs(int(clock) - seen["host_time"]) <= 2


def test_a_guests_clock_runs_as_fast_as_its_hosts(seen):
    clock = seen["clock"]
    assert clock["host"] > 5 * clock["doubt"], "too busy a machine, or too short a run, to tell"
    assert abs(clock["guest"] - clock["host"]) <= clock["doubt"] + 0.01 * clock["host"]


def test_qemu_is_not_root(seen):
    assert seen["qemu_uid"] != 0


def test_a_killed_guest_is_a_failure_never_a_success(seen):
    assert seen["killed_code"] not in (0, None)
    assert "virtual machine has ended" in seen["killed_log"]["stderr"]
    assert seen["killed_sandbox_state"] == 1  # SANDBOX_NOTREADY


def test_what_a_guest_cannot_give_is_refused_by_name(seen):
    assert "hostNetwork" in seen["host_network"] and "runtimeClassName: runc" in seen["host_network"]
    assert "hostPID" in seen["host_pid"]


def test_nothing_is_left_behind(seen):
    assert seen["after"] == seen["before"]
