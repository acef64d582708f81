"""What runs on the host for a pod: the jail and the stand-ins."""

import ctypes
import ctypes.util

import pytest

from appliance.node.microvm import jail, seccomp
from appliance.node.microvm.qemu import Machine
from appliance.node.microvm.settings import MIB
from tests.unit.test_microvm_spec import SANDBOX, WORKLOAD

KVM = Machine("kvm", memory_mib=256, vcpus=2, vmlinuz="k", initrd="i", rootfs="r")


def make_jail(**changes):
    arguments = {
        "root": "/r", "state": "/s", "disk": "/d", "guest": "/g", "template": None, "template_writable": False,
        "uid": 5, "devices": [], "argv": ["supervise"], "machine": KVM,
    }  # fmt: skip
    return jail.jail(SANDBOX, **(arguments | changes))


def mount_options(config, destination):
    return next(m["options"] for m in config["mounts"] if m["destination"] == destination)


def test_the_jail_has_no_root_no_writable_usr_and_no_capability_of_the_sandbox():
    jail = make_jail()
    assert jail["process"]["user"] == {"uid": 5, "gid": 5}
    assert jail["process"]["noNewPrivileges"] is True
    assert "CAP_SYS_ADMIN" not in jail["process"]["capabilities"]["bounding"]
    assert jail["root"] == {"path": "/r", "readonly": True}
    assert "ro" in mount_options(jail, "/usr")
    assert "ro" in mount_options(jail, "/run/pod/guest")


def test_the_jail_stays_in_the_pods_namespaces_and_cgroup():
    jail = make_jail()
    assert jail["linux"]["namespaces"] == SANDBOX["linux"]["namespaces"]
    assert jail["linux"]["cgroupsPath"] == "/k8s/S"
    assert jail["hostname"] == "pod"


def test_the_jail_may_use_its_devices_and_no_others():
    tun = {"path": "/dev/net/tun", "type": "c", "major": 10, "minor": 200, "fileMode": 384, "uid": 5, "gid": 5}
    rules = make_jail(devices=[tun])["linux"]["resources"]["devices"]
    assert rules[0] == {"allow": False, "access": "rwm"}
    assert [(r["major"], r["minor"]) for r in rules[1:]] == [(10, 200)]


def test_a_template_is_writable_in_the_jail_only_where_an_old_qemu_needs_it():
    assert "ro" in mount_options(make_jail(template="/t"), "/run/pod/template")
    assert "rw" in mount_options(make_jail(template="/t", template_writable=True), "/run/pod/template")


def test_a_stand_in_carries_nothing_of_the_workload():
    stand_in = jail.stand_in(WORKLOAD, root="/r", state="/s", uid=5, argv=["stand-in", "C"], counts_swap=True)
    text = str(stand_in)
    assert "SECRET" not in text and "/srv" not in text
    assert stand_in["process"]["capabilities"] == {}
    assert stand_in["process"]["oomScoreAdj"] == 1000
    most = jail.STAND_IN_MEMORY_MIB * MIB
    assert stand_in["linux"]["resources"]["memory"] == {"limit": most, "swap": most}
    assert stand_in["linux"]["resources"]["cpu"] == {"shares": 1024}
    assert stand_in["linux"]["cgroupsPath"] == "/k8s/C"


def test_a_jail_is_bounded_by_its_guest_and_leaves_no_core_dump():
    for accelerator in ("kvm", "tcg"):
        config = make_jail(machine=KVM._replace(accelerator=accelerator))
        resources = config["linux"]["resources"]
        assert 256 * MIB < resources["memory"]["limit"] <= (256 + 512) * MIB
        assert resources["cpu"] == {"shares": 2048}
        assert 64 < resources["pids"]["limit"] < 1000
        assert {"type": "RLIMIT_CORE", "soft": 0, "hard": 0} in config["process"]["rlimits"]


FORBIDDEN = """
    acct add_key bpf chroot clock_settime clone3 delete_module finit_module fsmount fsopen init_module io_uring_enter
    io_uring_setup ioperm iopl kexec_file_load kexec_load keyctl landlock_create_ruleset mount mount_setattr move_mount
    msgget name_to_handle_at open_by_handle_at open_tree perf_event_open personality pidfd_getfd pidfd_open pivot_root
    process_vm_readv process_vm_writev ptrace reboot request_key semget sethostname setns shmget splice swapon syslog
    umount2 unshare userfaultfd vmsplice
"""


def test_the_filter_allows_no_way_out_and_knows_every_call_that_it_names():
    profile = seccomp.profile()
    names = [name for rule in profile["syscalls"] for name in rule["names"]]
    assert profile["defaultAction"] == "SCMP_ACT_ERRNO"
    assert not set(names) & set(FORBIDDEN.split())
    assert len(set(names)) == len(names)
    library = ctypes.util.find_library("seccomp")
    if not library:
        pytest.skip("no libseccomp here to ask")
    resolve = ctypes.CDLL(library).seccomp_syscall_resolve_name
    assert [n for n in names + FORBIDDEN.split() if resolve(n.encode()) == -1] == []


def test_sockets_are_of_this_machine_and_children_get_no_new_namespace():
    rules = {rule["names"][0]: rule["args"][0] for rule in seccomp.profile()["syscalls"] if "args" in rule}
    assert rules["socket"]["value"] == rules["socketpair"]["value"] == 1
    assert rules["clone"] == {
        "index": 0, "op": "SCMP_CMP_MASKED_EQ", "value": 0x7E020080, "valueTwo": 0,
    }  # fmt: skip
