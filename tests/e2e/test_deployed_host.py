"""A deployed host: nothing left to do, status and doctor tell the truth, and two runs do not meet."""

import getpass
import json
import os
import signal
import time
import urllib.request
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT, appliance, on_host
from tests.e2e.conftest import events
from tests.e2e.kill import running, wait_for_task

pytestmark = pytest.mark.lab

# the first task after the lock is taken
FIRST_TASK = "Look which packages are missing"


def test_a_deploy_that_was_killed_completes_when_it_is_run_again(deployment):
    assert deployment.killed.code == -signal.SIGKILL
    assert deployment.code == 0, [e for e in deployment.events if e["event"] == "failure"]
    (host,) = deployment.events[-1]["hosts"]
    assert host["state"] == "changed"


def test_a_second_deploy_changes_nothing(deployed_host):
    done = appliance("deploy", "--limit", deployed_host.name, "-o", "json")
    assert done.returncode == 0
    assert [e for e in events(done.stdout) if e["event"] == "change"] == []
    assert events(done.stdout)[-1]["hosts"] == [
        {"name": deployed_host.name, "changed": 0, "failed": 0, "state": "ok"},
    ]


def test_plan_after_deploy_has_nothing_to_change(deployed_host):
    done = appliance("plan", "--limit", deployed_host.name, "--detailed-exitcode", "-o", "json")
    assert [e for e in events(done.stdout) if e["event"] == "change"] == []
    assert done.returncode == 0


def test_status_has_the_documented_shape_and_the_guests_own_kernel(deployed_host):
    done = appliance("status", "--limit", deployed_host.name, "-o", "json")
    assert done.returncode == 0
    (host,) = json.loads(done.stdout)["hosts"]
    assert host.keys() >= {"name", "release", "health", "components", "pods"}
    assert (host["name"], host["health"]) == (deployed_host.name, "ok")
    assert all(part.keys() >= {"name", "version", "state"} for part in host["components"])
    parts = {part["name"]: part for part in host["components"]}
    assert parts["containerd"]["state"] == "active"
    assert parts["containerd"]["version"]
    (pod,) = [p for p in host["pods"] if p["name"] == "demo"]
    assert pod.keys() >= {"name", "runtime", "ready", "ip", "guest_kernel", "restarts"}
    assert (pod["runtime"], pod["ready"]) == ("microvm", True)
    assert pod["guest_kernel"]
    assert pod["guest_kernel"] != os.uname().release
    assert pod["guest_kernel"] in page(deployed_host)


def test_doctor_finds_all_well(deployed_host):
    done = appliance("doctor", "--limit", deployed_host.name, "-o", "json")
    (host,) = json.loads(done.stdout)["hosts"]
    assert [c for c in host["checks"] if not c["ok"] and c["severity"] == "error"] == []
    assert done.returncode == 0


def test_doctor_names_a_stopped_service_with_the_command_that_cures_it(deployed_host):
    on_host(deployed_host, "systemctl", "stop", "prometheus")
    sick = appliance("doctor", "--limit", deployed_host.name, "-o", "json")
    (host,) = json.loads(sick.stdout)["hosts"]
    found = [c for c in host["checks"] if not c["ok"] and c["id"] == "unit-prometheus"]
    assert sick.returncode == 1
    assert found, host
    assert found[0]["cause"]
    cure = found[0]["cure"].rpartition("then ")[2]
    assert cure == "systemctl restart prometheus.service"
    on_host(deployed_host, *cure.split())
    assert appliance("doctor", "--limit", deployed_host.name).returncode == 0


def test_the_second_of_two_deploys_on_a_host_is_refused_and_names_the_first(deployed_host):
    words = ("deploy", "--limit", deployed_host.name, "-o", "json")
    with running(*words) as first:
        wait_for_task(first, FIRST_TASK)
        (play,) = children(first.pid)
        os.killpg(play, signal.SIGSTOP)  # it holds the lock for as long as the second run takes
        try:
            second = appliance(*words)
        finally:
            os.killpg(play, signal.SIGCONT)
        first.communicate()
        assert first.returncode == 0
    assert second.returncode == 1
    (failure,) = [e for e in events(second.stdout) if e["event"] == "failure"]
    user = os.environ.get("SUDO_USER") or getpass.getuser()
    for word in ("appliance deploy", f"pid {first.pid}", f"by {user}", f"on {os.uname().nodename}"):
        assert word in failure["msg"]


def test_an_interrupted_deploy_ends_130_and_lets_go_of_the_host(deployed_host):
    with running("deploy", "--limit", deployed_host.name, "-o", "json") as process:
        wait_for_task(process, FIRST_TASK)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
        assert process.returncode == 130
    assert appliance("deploy", "--limit", deployed_host.name).returncode == 0


def test_a_limit_that_matches_no_host_is_a_usage_error(deployed_host):
    done = appliance("deploy", "--limit", "nosuchhost")
    assert done.returncode == 2
    assert "nosuchhost" in done.stderr


def test_an_unreachable_host_does_not_hold_up_the_others(deployed_host, tmp_path):
    elsewhere = {"ansible_nspawn_directory": "/nonexistent", "ansible_host": "10.87.0.254"}
    ghost = deployed_host.vars | elsewhere
    hosts = {deployed_host.name: deployed_host.vars, "ghost": ghost}
    inventory = tmp_path / "site.yml"
    declared = yaml.safe_load((ROOT / "inventories/lab/site.yml").read_text())["appliance"]["vars"]
    inventory.write_text(json.dumps({"appliance": {"hosts": hosts, "vars": declared}}))
    done = appliance("deploy", "-i", str(inventory), "-o", "json")
    assert done.returncode == 4
    states = {h["name"]: h["state"] for h in events(done.stdout)[-1]["hosts"]}
    assert states == {deployed_host.name: "ok", "ghost": "unreachable"}


def test_lab_shell_passes_on_output_and_exit_code(deployed_host):
    done = appliance("lab", "shell", deployed_host.name, "--", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.stdout, done.stderr, done.returncode) == ("out\n", "err\n", 7)


def page(host, seconds: float = 30) -> str:
    """The demo's page, asked from here."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(f"http://{host.ip}:8080/", timeout=20) as answer:
                return answer.read().decode()
        except OSError:
            if time.monotonic() > deadline:
                raise


def children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(word) for word in text.split()]
