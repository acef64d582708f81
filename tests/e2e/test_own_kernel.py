"""A host with a kernel of its own, as every real machine has: cgroup v2, systemd making control groups, udev, modules.

The lab's other hosts share this machine's kernel and control groups. This one is a QEMU machine, most often emulated:
deploying it takes a quarter of an hour, and longer on a busy machine.
"""

import json
from dataclasses import dataclass

import pytest

from appliance.lab.state import Host
from tests.conftest import appliance, on_host
from tests.e2e.conftest import events
from tests.e2e.test_deployed_host import page

pytestmark = [pytest.mark.lab, pytest.mark.full]

DEPLOY_SECONDS = 5400
ASK_SECONDS = 900
POD, MICROVM = (f"/usr/lib/casemate/bin/casemate-{name}" for name in ("pod", "microvm"))
# What a pod leaves if its end is not clean: by name, what lists it. Their common slice stays, empty.
TRACES = {
    "scopes": "systemctl list-units --all --plain --no-legend 'cri-containerd-*'",
    "control groups": "find /sys/fs/cgroup -mindepth 1 -type d -path '*casemate.slice/*' -o -name 'k8s*'",
    "mounts": "awk '{print $5}' /proc/self/mountinfo | grep -E '/run/(casemate|containerd|netns)/' || true",
    "processes": "pgrep -a 'qemu|containerd-shim|catatonit' || true",
    "run state": "ls /run/casemate/microvm 2>/dev/null || true",
    "interfaces": "ip -br link | grep ^veth || true",
}
PLAIN = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "plain"},
    "spec": {
        "runtimeClassName": "runc",
        "terminationGracePeriodSeconds": 1,
        "containers": [{"name": "web", "image": "localhost/casemate/demo:1", "imagePullPolicy": "Never"}],
    },
}


@dataclass
class Deployed:
    host: Host
    code: int
    events: list[dict]


@pytest.fixture(scope="module")
def deployed(new_host) -> Deployed:
    host = new_host("k", kind="qemu", release="trixie")
    done = appliance("deploy", "--limit", host.name, "-o", "json", timeout=DEPLOY_SECONDS)
    return Deployed(host, done.returncode, events(done.stdout))


@pytest.fixture
def host(deployed) -> Host:
    assert deployed.code == 0, [e for e in deployed.events if e["event"] == "failure"]
    return deployed.host


def test_the_host_is_of_the_kind_that_this_is_about(host):
    assert on_host(host, "stat", "-fc", "%T", "/sys/fs/cgroup").strip() == "cgroup2fs"
    assert json.loads(on_host(host, "cat", "/etc/casemate/engine.json"))["cgroup_driver"] == "systemd"


def test_the_demo_answers_from_a_guest_with_a_kernel_of_its_own(host):
    done = appliance("status", "--limit", host.name, "-o", "json", timeout=ASK_SECONDS)
    assert done.returncode == 0, done.stdout
    (told,) = json.loads(done.stdout)["hosts"]
    (pod,) = [p for p in told["pods"] if p["name"] == "demo"]
    assert (pod["runtime"], pod["ready"]) == ("microvm", True)
    assert pod["guest_kernel"] in page(host, 120)


def test_doctor_finds_all_well(host):
    done = appliance("doctor", "--limit", host.name, "-o", "json", timeout=ASK_SECONDS)
    (told,) = json.loads(done.stdout)["hosts"]
    assert [c for c in told["checks"] if not c["ok"] and c["severity"] == "error"] == []
    assert done.returncode == 0


def test_the_probe_found_kvm_and_the_pods_guest_was_restored_by_it(host):
    (sandbox,) = [p["sandbox_id"] for p in pods(host) if p["name"] == "demo"]
    told = json.loads(on_host(host, MICROVM, "sandbox-info", sandbox))
    assert (told["accelerator"], told["started_from"]) == ("kvm", "template"), told["notes"]


def test_the_pods_programs_are_in_scopes_of_the_pods_own_slice(host):
    (sandbox,) = [p["sandbox_id"] for p in pods(host) if p["name"] == "demo"]
    scope = f"cri-containerd-{sandbox}.scope"
    shown = on_host(host, "systemctl", "show", "-P", "Slice", "-P", "ActiveState", scope).split()
    assert sorted(shown) == ["active", "casemate-demo.slice"]
    group = f"/sys/fs/cgroup/casemate.slice/casemate-demo.slice/{scope}"
    commands = on_host(host, "sh", "-c", f"cat $(sed 's|.*|/proc/&/comm|' {group}/cgroup.procs)")
    assert "qemu-system-x86" in commands


def test_a_pod_with_the_hosts_kernel_runs_when_it_is_asked_for(host):
    on_host(host, "tee", "/etc/casemate/pods/plain.yaml", stdin=json.dumps(PLAIN))
    on_host(host, POD, "sync", "--wait=300", "--for=plain")
    assert [(p["runtime"], p["ready"]) for p in pods(host) if p["name"] == "plain"] == [("runc", True)]
    on_host(host, POD, "remove", "plain")


def test_the_benchmarks_pods_start_here_too(host):
    done = appliance(
        "bench", "start", "--runs", "1", "--limit", host.name, "--yes", "-o", "json", timeout=DEPLOY_SECONDS
    )
    assert done.returncode == 0, done.stderr
    (told,) = json.loads(done.stdout)["hosts"]
    assert {"runc", "microvm", "microvm, cold"} <= set(told["results"])
    assert [p["name"] for p in pods(host)] == ["demo"]


def test_a_second_deploy_changes_nothing(host):
    done = appliance("deploy", "--limit", host.name, "-o", "json", timeout=DEPLOY_SECONDS)
    assert [e for e in events(done.stdout) if e["event"] == "change"] == []
    assert events(done.stdout)[-1]["hosts"] == [{"name": host.name, "changed": 0, "failed": 0, "state": "ok"}]


def test_a_removed_pod_leaves_nothing_behind(host):
    """The last one here, as it takes the demo away."""
    assert all(traces(host).values()), "what a running pod has is not seen"
    on_host(host, POD, "remove", "demo")
    assert pods(host) == []
    assert traces(host) == dict.fromkeys(TRACES, "")


def traces(host: Host) -> dict[str, str]:
    return {kind: on_host(host, "sh", "-c", command) for kind, command in TRACES.items()}


def pods(host: Host) -> list[dict]:
    return json.loads(on_host(host, POD, "list", "-o", "json"))
