"""`appliance bench` on a deployed lab host: the shape of its answer, and that nothing is left of it."""

import json
import signal
import subprocess
import time

import pytest

from appliance.lab import manage
from tests.conftest import appliance, on_host

pytestmark = pytest.mark.lab

FIGURES = {
    "start": {"sandbox", "create", "start", "output", "total", "remove"},
    "density": {"total", "overhead", "guest", "qemu", "supervisor", "stand-in", "shim"},
    "io": {"write_mib_s", "read_mib_s", "random_read_per_s", "random_write_per_s", "fsync_per_s", "files_per_s"},
    "net": {"to_pod_mib_s", "from_pod_mib_s", "round_trip_us"},
}


def left(host) -> dict:
    """What a benchmark could leave: pods, directories, run state of guests."""
    return {
        "sandboxes": on_host(host, "ctr", "-n", "k8s.io", "containers", "ls", "-q", 'labels."casemate.io/bench"==1'),
        "directories": on_host(host, "sh", "-c", "ls -d /var/lib/casemate/bench-* 2>/dev/null || true"),
        "guests": on_host(host, "ls", "/run/casemate/microvm"),
    }


@pytest.mark.parametrize("what", ["start", "density", "io", "net"])
def test_each_benchmark_tells_every_figure_and_leaves_nothing(deployed_host, what):
    before = left(deployed_host)
    done = appliance("bench", what, "--limit", deployed_host.name, "--yes", "--runs", "1", "-o", "json",
                     "--handler", "microvm")  # fmt: skip
    assert done.returncode == 0, done.stderr
    (host,) = json.loads(done.stdout)["hosts"]
    for side, result in host["results"].items():
        assert FIGURES[what] <= set(result["median"]), side
        assert all(value >= 0 for value in result["median"].values())
        assert len(result["runs"]) == 1
    if what == "start":
        results = host["results"]
        assert results["microvm, cold"]["median"]["sandbox"] > results["microvm"]["median"]["sandbox"]
    assert left(deployed_host) == before


def test_an_interrupted_benchmark_takes_its_pods_with_it(deployed_host):
    before = left(deployed_host)
    argv = manage.shell(deployed_host.name, [
        "env", "PYTHONPATH=/usr/lib/casemate/current", "python3", "-c",
        "import os, sys; print(os.getpid(), flush=True); from appliance.node.bench.cli import main; "
        "sys.exit(main(['density', '--runs', '3']))",
    ])  # fmt: skip
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        pid = running.stdout.readline().strip()
        assert "1 of 3" in running.stderr.readline()
        on_host(deployed_host, "kill", f"-{signal.SIGTERM.name}", pid)
        assert running.wait(120) == 130
    deadline = time.monotonic() + 30
    while left(deployed_host) != before and time.monotonic() < deadline:
        time.sleep(0.5)
    assert left(deployed_host) == before
