"""The claims of docs/security.md, tried on a deployed lab host by tests/inside/escape.py: each attempt, and beside it
the same attempt where it must succeed, so that a broken probe is no proof.
"""

import pytest

from tests.conftest import inside

pytestmark = pytest.mark.lab

ALLOWED = "done"


@pytest.fixture(scope="module")
def seen(deployed_host):
    return inside(deployed_host, "escape", timeout=1500)


@pytest.fixture(params=["jail", "stand-in"])
def place(request, seen):
    """What was met inside, and by the host's root."""
    return seen[request.param], seen["host"]


# (a) and (b): the guest's root


def test_g1_the_guest_sees_its_own_containers_and_volumes_only(seen):
    guest = seen["guest"]
    assert guest["containers in the share"] == [seen["attacker"]]
    assert guest["volumes"] == seen["volumes"] and len(seen["volumes"]) >= 2
    assert seen["neighbour's volumes"] and not set(guest["volumes"]) & set(seen["neighbour's volumes"])
    assert guest["above the share"] is True


def test_g2_a_read_only_volume_stays_so_whatever_the_guest_mounts(seen):
    guest = seen["guest"]
    assert guest["write to a volume"] == ALLOWED
    for name in ("write to a read-only volume", "write to it, mounted anew", "change of its mode", "removal from it"):
        assert guest[name] == "EROFS", name
    assert seen["file on the read-only volume"] == ["read-only\n", 0o644]


def test_g3_no_name_leads_from_one_volume_into_another(seen):
    guest = seen["guest"]
    assert guest["link within a volume"] == ALLOWED
    assert guest["link from another volume"] not in (ALLOWED, "ENOENT")
    assert guest["rename into another volume"] not in (ALLOWED, "ENOENT")


def test_g4_the_guest_makes_files_and_no_devices(seen):
    assert seen["guest"]["mknod of a file"] == ALLOWED
    assert seen["guest"]["mknod of a device"] == "EPERM"


def test_g5_the_file_server_follows_no_link(seen):
    guest = seen["guest"]
    assert guest["a link's text"] == "/etc/hostname"
    assert guest["through a directory"] == "of the guest"
    assert "of the host" not in guest["through the directory, a link to the host's by now"]
    assert guest["writing through it"] != ALLOWED
    assert seen["files of the host"] == ["hostname"]


def test_g6_what_the_guest_made_set_user_id_does_not_run_where_the_jail_sees_it(seen):
    assert seen["set-user-ID"] == {"mode": "0o4755", "at its place": 0, "in the jail's view": "EACCES"}


def test_g7_an_attribute_too_big_is_an_error_and_the_file_server_lives_on(seen):
    guest = seen["guest"]
    assert guest["small attribute"] == ALLOWED
    assert guest["huge attribute"] in ("E2BIG", "ENOSPC")
    assert guest["attribute too big for any file system"] != ALLOWED
    assert guest["read the root file system's disk"] == ALLOWED  # tried after it


def test_g8_the_guests_root_file_system_cannot_be_written(seen):
    assert seen["guest"]["read the root file system's disk"] == ALLOWED
    assert seen["guest"]["write to it"] != ALLOWED
    assert seen["root file system changed"] is False


# (c): the agent's channel


def test_c1_an_owned_guest_can_report_any_code_of_its_own_programs(seen):
    assert seen["channel"]["a code"] == 7


@pytest.mark.parametrize("what", ["a word", "too big a code", "noise"])
def test_c2_what_is_no_report_is_a_failure_and_no_success(seen, what):
    assert seen["channel"][what] == 255


def test_c3_noise_ends_its_own_pod_and_no_other(seen):
    assert seen["channel"]["pod's state"] == 1  # SANDBOX_NOTREADY
    assert seen["channel"]["program's state"] == 2  # CONTAINER_EXITED
    assert seen["neighbour lives"] == "alive\n"


def test_c4_a_call_of_another_version_is_refused_by_name(seen):
    assert "speaks version 1 and was called in version 2" in seen["channel"]["another version"]


# (d) and (e): the jail and the stand-ins


def test_j1_no_call_leads_out(place):
    inside, host = place
    calls = [name for name in inside if name.startswith("call ")] + ["clone of a user namespace"]
    assert len(calls) > 20
    assert {name: inside[name] for name in calls} == dict.fromkeys(calls, "ENOSYS")
    assert [name for name in calls if host[name] == "ENOSYS"] == []
    assert inside["clone of a process"] == host["clone of a process"] == ALLOWED


def test_j2_no_socket_leads_out(place):
    inside, host = place
    for name in ("socket AF_INET", "socket AF_INET6", "socket AF_NETLINK", "socket AF_PACKET"):
        assert (inside[name], host[name]) == ("ENOSYS", ALLOWED), name
    for name in ("abstract socket of the host", "containerd's socket"):
        assert inside[name] in ("ECONNREFUSED", "ENOENT") and host[name] == ALLOWED, name
    assert inside["the pod's own socket"] == ALLOWED


def test_j3_nothing_of_the_host_is_to_be_seen_but_usr(place):
    inside, host = place
    for path in ("/etc", "/var/lib", "/root", "/sys", "/run/containerd"):
        assert (inside[f"see {path}"], host[f"see {path}"]) == ("ENOENT", ALLOWED), path
    assert inside["see host's init"] != ALLOWED and host["see host's init"] == ALLOWED
    assert inside["see /proc/self/status"] == ALLOWED


def test_j4_nothing_can_be_written_but_its_own(place):
    inside, host = place
    for path in ("/usr/bin/attempt", "/attempt", "/run/attempt"):
        assert (inside[f"write {path}"], host[f"write {path}"]) == ("EROFS", ALLOWED), path
    for path in ("/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger"):
        assert inside[f"write {path}"] != ALLOWED, path
    assert inside["mknod of a device"] != ALLOWED and host["mknod of a device"] == ALLOWED


def test_j5_no_process_is_there_but_the_pods_own(place, seen):
    inside, host = place
    assert inside["users of processes"] == [seen["user"]] and len(host["users of processes"]) > 1
    assert (inside["signal to a process of the host"], host["signal to a process of the host"]) == ("ESRCH", ALLOWED)
    assert inside["core"] == [0, 0]


def test_j6_each_pod_has_a_user_of_its_own(seen):
    assert seen["jail"]["user"] == seen["stand-in"]["user"] == seen["user"] != seen["neighbour's user"]


def test_j7_only_qemu_has_capabilities_and_nobody_reads_the_supervisors_memory(seen):
    five = "000000008000001b"  # CHOWN, DAC_OVERRIDE, FOWNER, FSETID, SETFCAP
    assert seen["jail"]["capabilities"] == seen["qemu"]["qemu"]["CapEff"] == seen["qemu"]["qemu"]["CapPrm"] == five
    for name in ("supervisor", "stand-in"):
        assert {seen["qemu"][name][kind] for kind in ("CapEff", "CapPrm", "CapAmb")} == {"0" * 16}, name
    assert seen["stand-in"]["capabilities"] == "0" * 16
    assert {process["Seccomp"] for process in seen["qemu"].values()} == {"2"}
    assert {process["NoNewPrivs"] for process in seen["qemu"].values()} == {"1"}
    assert seen["jail"]["memory of the first process"] == "EACCES"
    assert seen["jail"]["memory of its own"] == ALLOWED


def test_j7_qemus_file_server_needs_each_capability_that_it_has(seen):
    served = seen["served without"]
    assert served.pop("None") == {"failed": []}
    assert len(served) == 5
    for capability, found in served.items():
        assert capability in found["failed"], (capability, found)


def test_j8_the_jail_sees_no_other_pods_files(seen):
    assert seen["jail's files"]["share"] == [seen["attacker"]]
    assert seen["jail's files"]["volumes"] == seen["volumes"]
    assert set(seen["jail's files"]["root"]) <= {"bin", "dev", "lib", "lib64", "proc", "run", "sbin", "usr"}


def test_j9_a_device_for_kvm_is_there_only_where_it_is_used(seen):
    accelerated = seen["jail"]["see /dev/kvm"] == ALLOWED
    assert accelerated == seen["accelerated"]


def test_j10_files_and_processes_have_an_end(seen):
    filled = seen["filled"]
    assert 0 < filled["bytes of ctl"] <= 1 << 20
    assert 0 < filled["bytes of dev"] <= 64 << 10
    assert 0 < filled["files of ctl"] < 64
    assert 0 < filled["processes"] < 300


def test_j11_memory_has_an_end_that_other_pods_do_not_notice(seen):
    assert seen["memory"]["16"] == {"mib": 16}
    assert "mib" not in seen["memory"]["4000"]
    assert seen["neighbour lives"] == "alive\n"
