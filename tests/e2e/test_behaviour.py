"""One behaviour suite over both runtime handlers, through CRI: what runc does is right, and a microVM does the same.

The cases run in a deployed lab host (tests/inside/behaviour*.py). `EXPECTED` says what each shows; `DIFFERENCES` is the
whole list of what a microVM does otherwise, and why. docs/runtime.md has the same list.
"""

import functools

import pytest

from tests.conftest import inside

pytestmark = pytest.mark.lab

HANDLERS = ("runc", "microvm")


def capabilities(effective: str, bounding: str) -> list[str]:
    """Return the lines of /proc/self/status; the permitted set is the effective one."""
    return [f"Cap{name}:\t{value:0>16}" for name, value in (
        ("Inh", ""), ("Prm", effective), ("Eff", effective), ("Bnd", bounding), ("Amb", ""))]  # fmt: skip


NOT_PERMITTED = "Operation not permitted"
READ_ONLY = "Read-only file system"

EXPECTED = {
    "states_and_reasons": {
        "states": [0, 1, 1, 2],
        "in_order": True,
        "start_of_a_running_one_refused": True,
        "start_of_an_ended_one_refused": True,
        "ended": [[2, 0, "Completed"], [2, 42, "Error"]],
    },
    "exit_codes": {"containers_exact": True, "execs_exact": True, "signals": [129, 134, 137, 139, 143]},
    "stop_signals": {
        **{signal: [7, "ready\ncaught\n"] for signal in ("SIGTERM", "SIGQUIT", "SIGUSR1", "SIGWINCH", "SIGRTMIN+3")},
        "deaf": [2, 137, "Error"],
    },
    "every_signal": [],
    "a_stopped_program": {"codes": [0, 0], "held": True, "goes_on": True},
    "removal": {"name_was_taken": True, "listed": False, "gone": True, "anew": 5},
    "listing": {
        "id": [True, False], "pod": [True, True], "label": [False, True], "nothing": [False, False],
    },
    "programs_that_cannot_run": {
        "missing": ["missing", 128, "StartError"],
        "no program": ["not executable", 128, "StartError"],
    },
    "what_outlives_its_program_ends": {
        "exec": True, "its_program_left": False, "the_containers_own_left": True, "code": 137,
    },
    "pause": {"state": "paused", "exec_refused": True, "goes_on": True},
    "runtimes_own_verbs": {
        "state": [True, "running"], "its_process_listed": True, "events": ["stats", True], "checkpoint_refused": True,
    },
    "a_pod_stops_with_its_containers": {
        "inmate": [2, 137, "Error"], "ready": 0, "stopped": 1, "new_container_refused": True, "listed": False,
    },
    "log_lines": [
        ["stderr", "F", 3, "err"],
        ["stdout", "F", 3, "out"],
        ["stdout", "P", 16384, "xxxx"],
        ["stdout", "P", 16384, "xxxx"],
        ["stdout", "F", 7232, "xxxx"],
        ["stdout", "F", 0, ""],
        ["stdout", "P", 4, "tail"],
    ],
    "log_flood": [True, True],
    "log_reopened": ["one", "two"],
    "exec_sync": {
        "streams": [9, "o\n", "e\n"],
        "megabyte": [0, True],
        "inherits": ["/tmp", "b c", "4711", "4712", "4712 4713", "not a tty", ""],
        "no_input": [0, "", ""],
        "slow": True,
        "missing": "missing",
        "gone": True,
    },
    "input": {"sum": True, "code": 6, "without": "0\n"},
    "terminal": {"sizes": [True, True], "one_stream": True, "echo": True, "code": 5, "log": True},
    "exec_on_a_terminal": [True, 8],
    "users": {
        "numbers": ["1234", "5678", "99 4321 5678 ", 0],
        "name": ["4711", "4712", "4712 4713 ", 0],
        "image": ["0", "0", "0 ", 0],
        "unknown": True,
    },
    "capabilities": {
        "default": [*capabilities("a80425fb", "a80425fb"), "0", 0],
        "changed": [*capabilities("a80435fa", "a80435fa"), f"chown: /f: {NOT_PERMITTED}", "1", 0],
        "none": [*capabilities("", ""), f"chown: /f: {NOT_PERMITTED}", "1", 0],
        "user": [
            *capabilities("", "a80425fb"),
            "touch: /f: Permission denied", "chown: /f: No such file or directory", "1", 0,
        ],
    },
    "no_new_privileges": {
        "allowed": ["Uid: 1234 0 0 0", "NoNewPrivs:\t0"],
        "forbidden": ["Uid: 1234 1234 1234 1234", "NoNewPrivs:\t1"],
    },
    "seccomp": {
        "default": [f"unshare: unshare(0x10000000): {NOT_PERMITTED}"],
        "unconfined": ["unshared"],
        "localhost": [f"mkdir: can't create directory '/made': {NOT_PERMITTED}", "unshared"],
    },
    "privileged": ["all", "sysctl", "mounted", "3", "own", "device", 0],
    "paths_of_the_root": {
        "read_only": [f"touch: /x: {READ_ONLY}", "tmp", "shm", 0],
        "writable": ["0022", "2", 0],
        "asked": [
            "0", "0", "0", f"/bin/sh: can't create /proc/sys/net/core/somaxconn: {READ_ONLY}",
            f"touch: /etc/x: {READ_ONLY}", f"touch: /sys/x: {READ_ONLY}", 1,
        ],
    },
    "limits_of_processes": ["many", "unlimited", "0022", "500", 0],
    "sysctls_and_shared_processes": {
        "sysctls": ["80", "1", "777", 0],
        "sees": 2,
        "is_not_the_first": 0,
        "signalled": 0,
        "code": 11,
        "left_or_unreaped": "",
        "observer_lives": 0,
        "private_one_beside_them": ["1", True],
    },
    "target_of_debugging": ["1", "beside", 0],
    "names": ["POD", "POD", "nameserver 192.0.2.53", "2", 0],
    "shared_network_and_memory": ["hello", "over", "65536", 0],
    "mounts": {
        "inside": [
            "inside", "of host", "inside", f"touch: /new/deep/read-only/x: {READ_ONLY}", "moved", "sub", 0,
        ],
        "on_host": ["out\n", "of host\nmore\n", ["moved", "sub"]],
    },
    "host_namespaces": {"network": None, "pid": None, "ipc": None},
    "mount_propagation": [None, None, None],
    "secrets_stay_in_memory": [[], True],
    "limits": {"asked": ["67108864", "25000", "50000", "20", 0], "weight_of_none": "39", "little": "1"},
    "out_of_memory": {"itself": [2, 137, "OOMKilled"], "child": [2, 12, "OOMKilled"], "killed": [2, 137, "Error"]},
    "update": {
        "changed": None,
        "limits": ["83886080", "30000", "100000", "10"],
        "too_much": None,
        "cpuset": None,
        "after": ["1099511627776", "30000", "100000", "10"],
    },
}  # fmt: skip

DIFFERENCES = {
    "privileged": (
        ["all", "sysctl", "mounted", "3", "own", 1],
        "all rights in its own guest, and none of the host's devices",
    ),
    "limits_of_processes": (
        ["many", "0", "0022", "500", 0],
        "no core dumps, until the program raises its soft limit: they would be written into the container's files",
    ),
    "update": (
        {
            "changed": None,
            "limits": ["83886080", "30000", "100000", "10"],
            "too_much": "cannot grow",
            "cpuset": "names processors or memory of the host",
            "after": ["83886080", "30000", "100000", "10"],
        },
        "a guest does not grow while it runs, and has processors of its own",
    ),
    "host_namespaces": (
        {"network": "hostNetwork", "pid": "hostPID", "ipc": "hostIPC"},
        "a guest has a kernel of its own, so no namespace of the host's: refused by name",
    ),
    "mount_propagation": (
        [None, "mountPropagation", "mountPropagation"],
        "mounts do not travel between two kernels: refused by name",
    ),
}


@pytest.fixture(scope="module")
def seen(deployed_host):
    """A function that returns what all cases show with a handler; they run once."""
    return functools.cache(lambda handler: inside(deployed_host, "behaviour", handler, timeout=1800))


@pytest.mark.parametrize("handler", HANDLERS)
@pytest.mark.parametrize("case", EXPECTED)
def test_behaviour(seen, case, handler):
    expected = EXPECTED[case]
    if handler == "microvm" and case in DIFFERENCES:
        expected, _why = DIFFERENCES[case]
    assert seen(handler)[case] == expected


@pytest.mark.parametrize("handler", HANDLERS)
def test_every_case_has_its_expectation(seen, handler):
    assert set(seen(handler)) == set(EXPECTED)


def test_every_difference_is_one():
    assert [case for case, (value, why) in DIFFERENCES.items() if value == EXPECTED[case] or not why] == []
