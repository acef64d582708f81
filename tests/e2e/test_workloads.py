"""The verbs that look at workloads: pods, logs and exec, on a deployed lab host."""

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time

import pytest

from tests.conftest import ROOT, appliance, on_host

pytestmark = pytest.mark.lab

# The engine copies the two streams each for itself: what is said at once may be logged in either order.
SAY = "echo one; sleep 0.5; echo two >&2; while [ ! -e /tmp/go ]; do sleep 0.2; done; echo three; exec sleep 100000"
MANIFEST = {
    "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "talk"},
    "spec": {
        "runtimeClassName": "runc", "terminationGracePeriodSeconds": 0,
        "containers": [
            {"name": name, "image": "localhost/casemate/demo:1", "imagePullPolicy": "Never",
             "command": ["/bin/busybox", "sh", "-c", command]}
            for name, command in (("say", SAY), ("quiet", "exec sleep 100000"))
        ],
    },
}  # fmt: skip
POD = "/usr/lib/casemate/bin/casemate-pod"


def start(*words: str, **options) -> subprocess.Popen:
    """Start the command of this checkout."""
    return subprocess.Popen([sys.executable, "-m", "appliance", *words], cwd=ROOT, **options)


def said(stream, text: bytes, seconds: float = 120) -> bytes:
    """What comes from a descriptor up to `text`."""
    found, end = b"", time.monotonic() + seconds
    while text not in found and time.monotonic() < end:
        if select.select([stream], [], [], 1)[0]:
            piece = os.read(stream, 65536)
            found += piece
            if not piece:
                break
    assert text in found, found
    return found


def run_there(host, pattern: str) -> str:
    """The processes of the host whose command line matches."""
    return on_host(host, "pgrep", "-fa", "--", pattern, check=False)


def wait_gone(host, pattern: str, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while (left := run_there(host, pattern)) and time.monotonic() < end:
        time.sleep(0.5)
    assert not left


@pytest.fixture(scope="module")
def talk(deployed_host):
    """The host, with a pod that prints and one container beside it that does not."""
    on_host(deployed_host, "sh", "-c", "cat > /etc/casemate/pods/talk.json", stdin=json.dumps(MANIFEST))
    on_host(deployed_host, POD, "sync", "--wait=120", "--for=talk")
    yield deployed_host
    on_host(deployed_host, POD, "remove", "talk")


def test_pods_lists_them_and_shows_one(talk):
    done = appliance("pods", "--limit", talk.name, "-o", "json")
    assert done.returncode == 0, done.stderr
    (host,) = json.loads(done.stdout)["hosts"]
    pods = {pod["name"]: pod for pod in host["pods"]}
    assert (pods["talk"]["runtime"], pods["demo"]["runtime"]) == ("runc", "microvm")
    text = appliance("pods", "--limit", talk.name, "talk").stdout
    assert "talk" in text and "demo" not in text


def test_a_pod_that_is_not_there_ends_with_2_and_a_list_of_those_that_are(talk):
    for words in (["pods", "nope"], ["logs", "nope"], ["exec", "nope", "--", "true"], ["logs", "-c", "nope", "talk"]):
        done = appliance(*words[:1], "--limit", talk.name, *words[1:])
        assert done.returncode == 2
        assert ("demo, talk" if "talk" not in words else "quiet, say") in done.stderr


def test_exec_passes_on_input_both_outputs_and_the_exit_code(talk):
    script = "cat; echo err >&2; exit 9"
    words = ["exec", "--limit", talk.name, "demo", "--", "sh", "-c", script]
    done = start(*words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = done.communicate(b"in\n", 120)
    assert (done.returncode, out, err) == (9, b"in\n", b"err\n")


def test_exec_gives_a_terminal(talk):
    ours, theirs = pty.openpty()
    words = ["exec", "--limit", talk.name, "-it", "demo", "--", "sh", "-c", "echo ready; read x; echo got $x; exec sh"]
    done = start(*words, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    said(ours, b"ready")
    os.write(ours, b"this\n")
    said(ours, b"got this")
    os.write(ours, b"exit 5\n")
    assert done.wait(120) == 5
    os.close(ours)


def test_logs_shows_the_last_lines_and_follows(talk):
    follow = start("logs", "--limit", talk.name, "-f", "talk", stdout=subprocess.PIPE)
    stream = follow.stdout.fileno()
    assert said(stream, b"two\n") == b"one\ntwo\n"
    assert appliance("logs", "--limit", talk.name, "--tail", "1", "talk").stdout == "two\n"
    assert appliance("exec", "--limit", talk.name, "talk", "--", "sh", "-c", ": >/tmp/go").returncode == 0
    said(stream, b"three\n")
    follow.send_signal(signal.SIGINT)
    follow.wait(60)
    wait_gone(talk, "casemate-pod logs")


@pytest.mark.parametrize("killed", [0, 1])
@pytest.mark.parametrize("pod", ["demo", "talk"])
def test_of_two_clients_that_begin_at_once_a_killed_one_ends_its_own_program(talk, pod, killed):
    words = ["exec", "--limit", talk.name, pod, "--", "sh", "-c", "echo begun; read x; echo $x"]
    clients = [start(*words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(2)]
    for client in clients:
        said(client.stdout.fileno(), b"begun\n")
    dead, alive = clients[killed], clients[1 - killed]
    dead.kill()
    dead.wait()
    deadline = time.monotonic() + 60
    while len(run_there(talk, "casemate-pod exec").splitlines()) > 1 and time.monotonic() < deadline:
        time.sleep(0.5)
    assert alive.communicate(b"still here\n", 120)[0] == b"still here\n"
    assert alive.returncode == 0
    wait_gone(talk, "echo begun|_stand-in .*/[0-9]")


@pytest.mark.parametrize(("pod", "container"), [("demo", "web"), ("talk", "quiet")])
def test_a_killed_client_leaves_neither_its_program_nor_ours_on_the_host(talk, pod, container):
    words = ["exec", "--limit", talk.name, "-c", container, pod, "--", "sh", "-c", "echo begun; exec sleep 54321"]
    client = start(*words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    said(client.stdout.fileno(), b"begun")
    of_exec = "sleep 54321|_stand-in .*/[0-9]"
    assert run_there(talk, of_exec)
    client.kill()
    client.wait()
    wait_gone(talk, of_exec)
    wait_gone(talk, "casemate-pod (exec|logs)")
