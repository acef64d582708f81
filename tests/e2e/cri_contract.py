"""Our subset of CRI against the real engine: run in a deployed host by test_cri_contract.py.

`CASEMATE_CRI_SOCKET` names another engine. It uses the handler runc and the demo's image, and leaves nothing behind.
"""

import os
import time
import uuid

import pytest

from appliance.node.pods.cri import Cri
from appliance.node.pods.cri_model import DEFAULT_SOCKET, CriError, sandbox_ready, state_name

SOCKET = os.environ.get("CASEMATE_CRI_SOCKET", DEFAULT_SOCKET)
IMAGE = "localhost/casemate/demo:1"


@pytest.fixture(scope="module")
def cri():
    return Cri(SOCKET)


@pytest.fixture
def sandbox(cri, tmp_path):
    """A running sandbox: its id and configuration."""
    config = {
        "metadata": {"name": f"contract-{uuid.uuid4().hex[:8]}", "uid": uuid.uuid4().hex, "namespace": "contract"},
        "hostname": "contract",
        "log_directory": str(tmp_path),
        "labels": {"io.casemate.contract": "yes"},
        "annotations": {"io.casemate.note": "as given"},
        "linux": {"resources": {"memory_limit_in_bytes": 64 << 20}},
    }
    identity = cri.call("RunPodSandbox", 60, config=config, runtime_handler="runc").pod_sandbox_id
    yield identity, config
    cri.call("StopPodSandbox", 60, pod_sandbox_id=identity)
    cri.call("RemovePodSandbox", 60, pod_sandbox_id=identity)


def container(cri, sandbox, command):
    identity, config = sandbox
    wanted = {
        "metadata": {"name": "main"},
        "image": {"image": IMAGE},
        "command": command,
        "envs": [{"key": "GREETING", "value": "hello"}],
        "labels": {"io.kubernetes.container.name": "main"},
        "log_path": "main.log",
        "linux": {"resources": {"memory_limit_in_bytes": 32 << 20}},
    }
    made = cri.call("CreateContainer", 60, pod_sandbox_id=identity, config=wanted, sandbox_config=config).container_id
    cri.call("StartContainer", 60, container_id=made)
    return made


def ended(cri, identity, seconds=20):
    for _ in range(seconds * 10):
        status = cri.call("ContainerStatus", container_id=identity).status
        if state_name(status) == "exited":
            return status
        time.sleep(0.1)
    raise AssertionError(f"still {state_name(status)} after {seconds} s")


def test_the_engine_speaks_cri_v1_and_is_ready(cri):
    assert cri.call("Version").runtime_name == "containerd"
    assert all(condition.status for condition in cri.call("Status").status.conditions)


def test_a_sandbox_is_told_of_as_it_was_asked_for(cri, sandbox):
    identity, config = sandbox
    (listed,) = [box for box in cri.sandboxes({"io.casemate.contract": "yes"}) if box.id == identity]
    assert sandbox_ready(listed)
    assert listed.metadata.name == config["metadata"]["name"]
    assert dict(listed.annotations) == config["annotations"]
    assert listed.runtime_handler == "runc"
    assert cri.address(identity)


def test_a_containers_end_and_output_are_told(cri, sandbox, tmp_path):
    identity = container(cri, sandbox, ["/bin/sh", "-c", "echo $GREETING; exit 3"])
    status = ended(cri, identity)
    assert status.exit_code == 3
    # the engine notes the start when it has been told, which may be after the end of so short a program
    assert status.started_at > 0 and status.finished_at > status.started_at - 1_000_000_000
    assert (tmp_path / "main.log").read_text().endswith(" stdout F hello\n")


def test_a_stopped_container_is_killed_after_its_grace(cri, sandbox):
    identity = container(cri, sandbox, ["/bin/sh", "-c", "trap '' TERM; while :; do sleep 1; done"])
    cri.call("StopContainer", 30, container_id=identity, timeout=1)
    assert ended(cri, identity).exit_code == 137


def test_a_command_in_a_container_gives_output_and_exit_code(cri, sandbox):
    identity = container(cri, sandbox, ["/bin/sleep", "1000"])
    answer = cri.call("ExecSync", 30, container_id=identity, cmd=["/bin/sh", "-c", "echo out; exit 7"], timeout=10)
    assert (answer.stdout, answer.exit_code) == (b"out\n", 7)


def test_an_image_that_is_not_there_is_no_error_but_empty(cri):
    assert not cri.call("ImageStatus", image={"image": "localhost/none/such:1"}).HasField("image")
    assert cri.call("ImageStatus", image={"image": IMAGE}).image.uid.value == 65534


def test_errors_carry_the_engines_words_and_code(cri):
    with pytest.raises(CriError) as caught:
        cri.call("ContainerStatus", container_id="nosuch")
    assert caught.value.code == "NOT_FOUND"
