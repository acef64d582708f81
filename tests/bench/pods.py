"""Pods on one lab host: microVM from template, microVM cold, and runc with the same image, all in one run.

`start` and `memory` ask `appliance bench`; `state` times the runtime's own command line against runc's.
CASEMATE_BENCH_HOST names a deployed lab host to use; else one is made, deployed and removed.
"""

import contextlib
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator

from appliance.lab import manage

from .deploy import say

HOST = "bench-pods"
RUNTIME = "/usr/lib/casemate/bin/casemate-microvm"
# Run in the host, once a pod of each handler is up: both command lines in turn, so that load falls on both.
STATE = """
import json, subprocess, sys, time
argv = {"runc": ["runc"], "microvm": [sys.argv[1]]}
spent = {name: [] for name in argv}
for _ in range(int(sys.argv[2])):
    for name, program in argv.items():
        begin = time.perf_counter()
        subprocess.run([*program, "--root", "/run/containerd/runc/k8s.io", "state", sys.argv[3]],
                       check=True, stdout=subprocess.DEVNULL)
        spent[name].append((time.perf_counter() - begin) * 1000)
print(json.dumps(spent))
"""


def start(runs: int) -> dict:
    """Seconds from RunPodSandbox to the program's first output, in medians; and what they are to each other."""
    with deployed() as host:
        results = bench(host, "start", runs)
    total = {side: result["median"]["total"] for side, result in results.items()}
    return {
        "seconds": {side: result["median"] for side, result in results.items()},
        "runs": {side: [run["total"] for run in result["runs"]] for side, result in results.items()},
        "cold_to_template": round(total["microvm, cold"] / total["microvm"], 1),
        "template_to_runc": round(total["microvm"] / total["runc"], 1),
    }


def memory(runs: int) -> dict:
    """MiB of host memory that each of ten idle pods takes, by what holds it; see appliance/node/bench/density.py."""
    with deployed() as host:
        results = bench(host, "density", 10)
    return {
        side: {key: result[key] for key in ("pods", "available_mib_a_pod", "median")}
        for side, result in results.items()
    }


def state(runs: int) -> dict:
    """Milliseconds of `state` of one container, by runc and by the runtime."""
    with deployed() as host:
        make = (
            "import sys, time; from appliance.node.bench.pods import node\nwith node() as n:\n p = n.pod('microvm'); "
        )
        make += "print(p.id, flush=True); sys.stdin.read()"
        argv = manage.shell(host, ["env", "PYTHONPATH=/usr/lib/casemate/current", "python3", "-c", make])
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as pod:
            identifier = pod.stdout.readline().strip()
            argv = manage.shell(host, ["python3", "-c", STATE, RUNTIME, str(max(runs, 30)), identifier])
            spent = json.loads(subprocess.run(argv, check=True, capture_output=True, text=True).stdout)
            pod.stdin.close()
    medians = {name: round(statistics.median(values), 2) for name, values in spent.items()}
    return {"milliseconds": medians, "ratio": round(medians["microvm"] / medians["runc"], 2)}


def bench(host: str, what: str, runs: int) -> dict:
    """Run `appliance bench` and return its results for the host."""
    argv = [
        sys.executable,
        "-m",
        "appliance",
        "bench",
        what,
        "--limit",
        host,
        "--yes",
        "-o",
        "json",
        "--runs",
        str(runs),
    ]
    done = subprocess.run(argv, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise SystemExit(f"appliance bench {what} ended {done.returncode}")
    return json.loads(done.stdout)["hosts"][0]["results"]


@contextlib.contextmanager
def deployed() -> Iterator[str]:
    """Give the name of a deployed lab host."""
    if given := os.environ.get("CASEMATE_BENCH_HOST"):
        yield given
        return
    say(f"making and deploying {HOST}")
    manage.up([HOST], release="bookworm", disk_mib=4096)
    try:
        subprocess.run([sys.executable, "-m", "appliance", "deploy", "--limit", HOST], check=True, stdout=sys.stderr)
        yield HOST
    finally:
        manage.down([HOST])
