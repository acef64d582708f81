"""What pods' OCI specs say, and what the guest's crun gets."""

import copy

import pytest

from appliance.node.microvm import spec
from appliance.node.microvm.settings import RuntimeFailure


def volume_name(source: str, read_only: bool, recursive: bool) -> str:
    """A volume's name in the export of volumes."""
    return f"{source.replace('/', '-')}-{read_only}-{recursive}"


SANDBOX = {
    "ociVersion": "1.0.2",
    "hostname": "pod",
    "annotations": {"io.kubernetes.cri.container-type": "sandbox", "io.kubernetes.cri.sandbox-id": "S"},
    "process": {"args": ["/pause"], "env": ["A=b"], "cwd": "/", "capabilities": {"bounding": ["CAP_SYS_ADMIN"]}},
    "root": {"path": "rootfs"},
    "mounts": [],
    "linux": {
        "namespaces": [
            {"type": "network", "path": "/run/netns/x"},
            {"type": "pid"},
            {"type": "ipc"},
            {"type": "mount"},
        ],
        "cgroupsPath": "/k8s/S",
        "resources": {"memory": {"limit": 1}},
    },
}
WORKLOAD = {
    "ociVersion": "1.0.2",
    "annotations": {"io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.sandbox-id": "S"},
    "process": {
        "args": ["/app"],
        "env": ["SECRET=x"],
        "cwd": "/srv",
        "user": {"uid": 7, "gid": 8},
        "apparmorProfile": "cri-containerd.apparmor.d",
        "oomScoreAdj": 1000,
    },
    "root": {"path": "rootfs", "readonly": True},
    "mounts": [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {
            "destination": "/dev/shm",
            "type": "bind",
            "source": "/run/containerd/sandboxes/S/shm",
            "options": ["rbind", "rw"],
        },
        {"destination": "/data", "type": "bind", "source": "/srv/data", "options": ["rbind", "ro"]},
        {"destination": "/etc/hosts", "type": "bind", "source": "/var/hosts", "options": ["bind", "rw"]},
    ],
    "linux": {
        "namespaces": [
            {"type": "pid"},
            {"type": "network", "path": "/proc/1/ns/net"},
            {"type": "ipc", "path": "/proc/1/ns/ipc"},
            {"type": "uts", "path": "/proc/1/ns/uts"},
            {"type": "mount"},
        ],
        "cgroupsPath": "/k8s/C",
        "resources": {"memory": {"limit": 64}, "hugepageLimits": []},
        "seccomp": {"defaultAction": "SCMP_ACT_ERRNO"},
    },
}


def without_namespace(base, name):
    changed = copy.deepcopy(base)
    changed["linux"]["namespaces"] = [n for n in changed["linux"]["namespaces"] if n["type"] != name]
    return changed


def test_a_container_outside_a_pod_is_refused_with_the_way_out():
    with pytest.raises(RuntimeFailure, match=r"belongs to no pod.*runtime runc"):
        spec.kind({"annotations": {}})


@pytest.mark.parametrize(("name", "field"), [("network", "hostNetwork"), ("pid", "hostPID"), ("ipc", "hostIPC")])
def test_a_namespace_of_the_host_is_refused_by_the_name_users_know(name, field):
    with pytest.raises(RuntimeFailure, match=f"{field}.*runtimeClassName: runc"):
        spec.check_sandbox(without_namespace(SANDBOX, name))


def test_the_pods_network_namespace_is_found():
    assert spec.check_sandbox(SANDBOX) == "/run/netns/x"


def test_a_pod_may_ask_for_a_cold_boot_and_for_coherent_volumes():
    assert spec.wishes({"io.casemate.microvm/boot": "cold", "example.org/other": "x"}) == {spec.BOOT}
    assert spec.wishes({"io.casemate.microvm/volumes": "coherent"}) == {spec.VOLUMES}
    assert spec.wishes({"io.casemate.manifest-hash": "x"}) == set()


@pytest.mark.parametrize(
    "annotation", [{"io.casemate.microvm/boot": "warm"}, {"io.casemate.microvm/size": "big"}], ids=str
)
def test_an_annotation_of_ours_that_means_nothing_is_refused_by_name(annotation):
    with pytest.raises(RuntimeFailure, match=f"{next(iter(annotation))}.*known are io.casemate.microvm/boot: cold"):
        spec.wishes(annotation)


def test_the_guests_container_keeps_the_workload_and_drops_the_hosts_policies():
    guest, _ = spec.in_guest(WORKLOAD, "C", volume_name)
    assert guest["process"]["args"] == ["/app"] and guest["process"]["user"] == {"uid": 7, "gid": 8}
    assert "apparmorProfile" not in guest["process"]
    assert guest["root"] == {"path": "/run/disk/C/root", "readonly": True}
    assert guest["linux"]["resources"] == {"memory": {"limit": 64}, "cpu": {"shares": 1024}}
    assert guest["linux"]["seccomp"]["defaultAction"] == "SCMP_ACT_ERRNO"
    assert WORKLOAD["linux"]["resources"]["hugepageLimits"] == [], "the given spec was changed"


def test_containers_of_a_pod_share_the_guests_network_and_shared_memory():
    guest, _ = spec.in_guest(WORKLOAD, "C", volume_name)
    assert {n["type"] for n in guest["linux"]["namespaces"]} == {"pid", "mount", "cgroup"}
    assert next(m for m in guest["mounts"] if m["destination"] == "/dev/shm")["source"] == "/dev/shm"


def test_bind_mounts_become_volumes_with_their_access():
    guest, volumes = spec.in_guest(WORKLOAD, "C", volume_name)
    assert volumes == [
        spec.Volume("/srv/data", "-srv-data-True-True", True, True),
        spec.Volume("/var/hosts", "-var-hosts-False-False", False, False),
    ]
    sources = {m["destination"]: m["source"] for m in guest["mounts"]}
    assert (
        sources["/data"] == "/run/volumes/" + volumes[0].name
        and sources["/etc/hosts"] == "/run/volumes/" + volumes[1].name
    )
    assert sources["/proc"] == "proc"


def test_devices_of_the_host_are_refused_by_name():
    config = copy.deepcopy(WORKLOAD)
    config["linux"]["devices"] = [{"path": "/dev/sda"}]
    with pytest.raises(RuntimeFailure, match=r"/dev/sda.*runtimeClassName: runc"):
        spec.in_guest(config, "C", volume_name)


def test_hooks_are_refused():
    with pytest.raises(RuntimeFailure, match="hooks"):
        spec.in_guest(WORKLOAD | {"hooks": {"poststart": [{"path": "/x"}]}}, "C", volume_name)


@pytest.mark.parametrize(
    ("annotations", "expected"),
    [
        ({}, (None, None)),
        (
            {"sandbox-memory": "134217728", "sandbox-cpu-quota": "150000", "sandbox-cpu-period": "100000"},
            (134217728, 2),
        ),
        ({"sandbox-cpu-quota": "-1", "sandbox-cpu-period": "100000"}, (None, None)),
        ({"sandbox-memory": "much"}, (None, None)),
    ],
)
def test_limits_are_read_from_the_sandboxes_annotations(annotations, expected):
    found = spec.resources({f"io.kubernetes.cri.{k}": v for k, v in annotations.items()})
    assert (found.memory, found.vcpus) == expected
