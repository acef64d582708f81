"""Each field of the OCI runtime specification 1.2 for Linux, and what becomes of it on its way into a guest."""

import copy
import re

import pytest

from appliance.node.microvm import fields, spec
from appliance.node.microvm.settings import RuntimeFailure
from tests.unit.test_microvm_spec import WORKLOAD, volume_name

GIVEN, DROPPED = "given", "dropped"

# field, a value that asks for something, what becomes of it: given, dropped, or words of the refusal
FIELDS = [
    ("ociVersion", "1.2.0", GIVEN),
    ("annotations", {"a": "b"}, GIVEN),
    ("hostname", "pod", DROPPED),
    ("domainname", "example.org", "crun"),
    ("root.readonly", True, GIVEN),
    ("hooks", {"createRuntime": [{"path": "/bin/true"}]}, "hooks run on the host"),
    ("process.terminal", True, GIVEN),
    ("process.consoleSize", {"height": 1, "width": 1}, GIVEN),
    ("process.user.uid", 1, GIVEN),
    ("process.user.gid", 1, GIVEN),
    ("process.user.umask", 0o77, GIVEN),
    ("process.user.additionalGids", [1], GIVEN),
    ("process.user.username", "x", "does not know"),
    ("process.args", ["/x"], GIVEN),
    ("process.commandLine", "x", "does not know"),
    ("process.env", ["A=b"], GIVEN),
    ("process.cwd", "/x", GIVEN),
    ("process.capabilities", {"bounding": ["CAP_KILL"]}, GIVEN),
    ("process.rlimits", [{"type": "RLIMIT_CORE", "hard": 0, "soft": 0}], GIVEN),
    ("process.noNewPrivileges", True, GIVEN),
    ("process.oomScoreAdj", 5, GIVEN),
    ("process.apparmorProfile", "my-profile", "AppArmor"),
    ("process.selinuxLabel", "a:b:c:d", DROPPED),
    ("process.scheduler", {"policy": "SCHED_FIFO"}, "crun"),
    ("process.ioPriority", {"class": "IOPRIO_CLASS_RT"}, "crun"),
    ("process.execCPUAffinity", {"initial": "1"}, "crun"),
    ("linux.cgroupsPath", "/x", GIVEN),
    ("linux.sysctl", {"kernel.msgmax": "1"}, GIVEN),
    ("linux.maskedPaths", ["/proc/kcore"], GIVEN),
    ("linux.readonlyPaths", ["/proc/sys"], GIVEN),
    ("linux.mountLabel", "a:b:c:d", DROPPED),
    ("linux.rootfsPropagation", "shared", "propagate"),
    ("linux.rootfsPropagation", "private", DROPPED),
    ("linux.devices", [{"path": "/dev/sda"}], "/dev/sda.*none of the host's devices"),
    ("linux.netDevices", {"eth1": {"name": "eth1"}}, "none of the host's devices"),
    ("linux.uidMappings", [{"containerID": 0, "hostID": 1, "size": 1}], "user namespace"),
    ("linux.gidMappings", [{"containerID": 0, "hostID": 1, "size": 1}], "user namespace"),
    ("linux.timeOffsets", {"monotonic": {"secs": 1}}, "crun"),
    ("linux.personality", {"domain": "LINUX32"}, "crun"),
    ("linux.memoryPolicy", {"mode": "MPOL_BIND"}, "crun"),
    ("linux.intelRdt", {"closID": "x"}, "caches"),
    ("linux.seccomp.defaultAction", "SCMP_ACT_LOG", GIVEN),
    ("linux.seccomp.defaultErrnoRet", 1, GIVEN),
    ("linux.seccomp.architectures", ["SCMP_ARCH_X86_64"], GIVEN),
    ("linux.seccomp.flags", ["SECCOMP_FILTER_FLAG_LOG"], GIVEN),
    ("linux.seccomp.syscalls", [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}], GIVEN),
    ("linux.seccomp.listenerPath", "/run/notify", "system calls of a guest"),
    ("linux.seccomp.listenerMetadata", "x", "system calls of a guest"),
    ("linux.resources.devices", [{"allow": True, "access": "rwm"}], GIVEN),
    ("linux.resources.memory.limit", 1 << 20, GIVEN),
    ("linux.resources.memory.reservation", 1, GIVEN),
    ("linux.resources.memory.swap", 1, GIVEN),
    ("linux.resources.memory.swappiness", 60, DROPPED),
    ("linux.resources.memory.useHierarchy", True, DROPPED),
    ("linux.resources.memory.kernel", 1, "cgroup v2"),
    ("linux.resources.memory.kernelTCP", 1, "cgroup v2"),
    ("linux.resources.memory.disableOOMKiller", True, "cgroup v2"),
    ("linux.resources.memory.checkBeforeUpdate", True, "crun"),
    ("linux.resources.cpu.shares", 2, GIVEN),
    ("linux.resources.cpu.quota", 1000, GIVEN),
    ("linux.resources.cpu.period", 1000, GIVEN),
    ("linux.resources.cpu.cpus", "0-1", "processors"),
    ("linux.resources.cpu.mems", "0", "processors"),
    ("linux.resources.cpu.realtimeRuntime", 1, "cgroup v2"),
    ("linux.resources.cpu.realtimePeriod", 1, "cgroup v2"),
    ("linux.resources.cpu.burst", 1, "crun"),
    ("linux.resources.cpu.idle", 1, "crun"),
    ("linux.resources.pids.limit", 5, GIVEN),
    ("linux.resources.unified", {"memory.high": "1"}, GIVEN),
    ("linux.resources.blockIO", {"weight": 10}, "none of the host's devices"),
    ("linux.resources.hugepageLimits", [{"pageSize": "2MB", "limit": 1}], "huge pages"),
    ("linux.resources.hugepageLimits", [{"pageSize": "2MB", "limit": 0}], DROPPED),
    ("linux.resources.network", {"classID": 1}, "cgroup v2"),
    ("linux.resources.rdma", {"mlx5_1": {"hcaHandles": 3}}, "none of the host's devices"),
    ("linux.tomorrow", 1, "does not know"),
    ("windows", {"layerFolders": ["x"]}, "does not know"),
]


def workload_with(path: str, value: object) -> dict:
    config = copy.deepcopy(WORKLOAD)
    *parents, last = path.split(".")
    here = config
    for name in parents:
        here = here.setdefault(name, {})
    here[last] = value
    return config


@pytest.mark.parametrize(("path", "value", "fate"), FIELDS, ids=[f"{p}-{f[:8]}" for p, _, f in FIELDS])
def test_each_field_is_given_dropped_or_refused_by_name(path, value, fate):
    config = workload_with(path, value)
    if fate not in (GIVEN, DROPPED):
        with pytest.raises(RuntimeFailure, match=rf"^{re.escape(path)} is .*{fate}.*runtimeClassName: runc"):
            spec.in_guest(config, "C", volume_name)
        return
    here = fields.take(config)
    *parents, last = path.split(".")
    for name in parents:
        here = here[name]
    assert here.get(last) == (value if fate == GIVEN else None)


def leaves(table: dict, where: str = ""):
    for name, fate in table.items():
        yield from leaves(fate, f"{where}{name}.") if isinstance(fate, dict) else [where + name]


def test_every_field_of_the_table_has_its_case():
    judged_elsewhere = {"root.path", "mounts", "linux.namespaces"}
    assert set(leaves(fields.SPEC)) - judged_elsewhere <= {path for path, _, _ in FIELDS}


@pytest.mark.parametrize("nothing", [None, "", 0, [], {}, {"poststart": None, "prestart": []}])
def test_an_empty_field_asks_for_nothing(nothing):
    assert "hooks" not in fields.take(workload_with("hooks", nothing))


@pytest.mark.parametrize(
    ("mount", "words"),
    [
        ({"type": "bind", "options": ["rbind", "rslave"]}, "mountPropagation"),
        ({"type": "bind", "options": ["rbind", "rshared"]}, "mountPropagation"),
        ({"type": "bind", "options": ["bind", "idmap"]}, "user ids"),
        ({"type": "bind", "options": ["bind"], "uidMappings": [{"size": 1}]}, "user ids"),
        ({"type": "nfs", "options": []}, "nfs"),
        ({"type": "overlay"}, "overlay"),
    ],
)
def test_mounts_that_need_the_hosts_kernel_are_refused(mount, words):
    config = copy.deepcopy(WORKLOAD)
    config["mounts"].append({"destination": "/m", "source": "/s"} | mount)
    with pytest.raises(RuntimeFailure, match=f"^mounts: /m: .*{words}.*runtimeClassName: runc"):
        spec.in_guest(config, "C", volume_name)


@pytest.mark.parametrize(
    ("name", "words"), [("ipc", "hostIPC"), ("network", "hostNetwork"), ("pid", "hostPID"), ("user", "user namespace")]
)
def test_a_containers_namespace_of_the_host_is_refused(name, words):
    config = copy.deepcopy(WORKLOAD)
    namespaces = config["linux"]["namespaces"]
    config["linux"]["namespaces"] = [n for n in namespaces if n["type"] != name]
    if name == "user":
        config["linux"]["namespaces"].append({"type": "user"})
    with pytest.raises(RuntimeFailure, match=f"{words}.*runtimeClassName: runc"):
        spec.in_guest(config, "C", volume_name)


def test_more_memory_than_the_guest_has_is_refused_and_less_is_not():
    assert spec.resources_in_guest({"memory": {"limit": 256 << 20}}, 256) == {"memory": {"limit": 256 << 20}}
    with pytest.raises(RuntimeFailure, match=r"memory\.limit is .*256 MiB.*cannot grow"):
        spec.resources_in_guest({"memory": {"limit": (256 << 20) + 1}}, 256)


def test_the_engines_own_profile_of_apparmor_is_dropped():
    assert "apparmorProfile" not in fields.take(WORKLOAD)["process"]


def test_an_emptydir_at_dev_shm_is_a_volume_and_not_the_pods_shared_memory():
    config = copy.deepcopy(WORKLOAD)
    config["mounts"][1]["source"] = "/var/lib/volumes/shm"
    guest, volumes = spec.in_guest(config, "C", volume_name)
    assert volumes[0].source == "/var/lib/volumes/shm"
    assert guest["mounts"][1]["source"] == f"/run/volumes/{volumes[0].name}"
