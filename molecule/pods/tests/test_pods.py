"""Pods: one that asked for runc and one that did not, both answering, each on the kernel that it should be on."""

import json
import time
import urllib.request

import pytest

DEMO_PORT = 8080


@pytest.fixture(scope="module")
def pods(host) -> dict[str, dict]:
    """The host's pods as the runner lists them, by name."""
    listed = json.loads(host.check_output("/usr/lib/casemate/bin/casemate-pod list --output json"))
    return {pod["name"]: pod for pod in listed}


def page(url: str) -> str:
    """What `url` serves; an emulated guest may take some seconds to answer."""
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(url, timeout=20) as answer:
                return answer.read().decode()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(1)


def test_each_pod_has_the_runtime_that_it_asked_for(pods):
    assert pods["plain"]["runtime"] == "runc"
    assert pods["demo"]["runtime"] == "microvm"


def test_all_are_ready_and_never_restarted(pods):
    assert {name: (pod["ready"], pod["restarts"]) for name, pod in pods.items()} == {
        "plain": (True, 0),
        "demo": (True, 0),
    }


def test_the_microvm_pod_answers_on_the_hosts_port_with_a_kernel_of_its_own(host, address, pods):
    from_outside = page(f"http://{address}:{DEMO_PORT}/")
    info = json.loads(
        host.check_output("/usr/lib/casemate/bin/casemate-microvm sandbox-info %s", pods["demo"]["sandbox_id"])
    )
    assert info["guest_kernel"] in from_outside
    assert host.check_output("uname -r") not in from_outside


def test_the_runc_pod_answers_with_the_hosts_kernel(host, pods, fetch):
    assert host.check_output("uname -r") in fetch(f"http://{pods['plain']['ip']}:8080/")


def test_each_pod_has_a_unit_and_a_manifest_for_root_alone(host):
    for name in ("plain", "demo"):
        assert host.service(f"casemate-pod@{name}.service").is_running
        assert host.file(f"/etc/casemate/pods/{name}.yaml").mode == 0o600
    assert host.service("casemate-pods.path").is_enabled
