"""Runs on an appliance: starts and stops pods one after the other, or declares many at once; prints JSON.

usage: many row COUNT     {"row_s": seconds of each start and stop, "engine_mib", "shim_mib": [first, last], "left"}
       many crowd COUNT   {"ready": how many, "crowd_s": until all were, "cold": how many, "problems", "left"}
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from crashes import engine, processes
from cri_pods import IMAGE, Pod, sh, wait
from traces import added, settled, traces

MANIFESTS = Path("/etc/casemate/pods")
PROGRAM = "/usr/lib/casemate/bin/casemate-pod"


def resident_mib(*pids):
    pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids)
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1)


def row(count):
    """Start a pod, run a container to its end, exec in another, remove; `count` times."""
    Pod("warm").remove()
    before, seconds, memory = traces(), [], []
    keeper = Pod("keeper")  # the one whose shim shows whether a shim grows with what happens beside it
    for _ in range(count):
        begin = time.monotonic()
        pod = Pod("row")
        assert wait(pod.container(*sh("exit 3"), name="short")) == 3
        pod.container(*sh("while :; do sleep 1; done"), name="long")
        pod.remove()
        seconds.append(round(time.monotonic() - begin, 1))
        memory.append((resident_mib(engine()), resident_mib(*processes("containerd-shim-runc-v2", keeper.id))))
    keeper.remove()
    return {"row_s": seconds, "engine_mib": [memory[0][0], memory[-1][0]], "shim_mib": [memory[0][1], memory[-1][1]],
            "left": added(before, settled(before))}  # fmt: skip


def crowd(count):
    """Declare `count` pods at once, wait until each is ready, and take them back."""
    Pod("warm").remove()
    before = traces()
    names = [f"crowd-{number}" for number in range(count)]
    begin = time.monotonic()
    for name in names:
        manifest = {
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {"terminationGracePeriodSeconds": 1, "containers": [{
                "name": "web", "image": IMAGE["image"], "imagePullPolicy": "Never",
                "resources": {"limits": {"memory": "64Mi"}}}]},
        }  # fmt: skip
        (MANIFESTS / f"{name}.json").write_text(json.dumps(manifest))
    done = subprocess.run([PROGRAM, "sync", "--wait", "900", "-o", "json"], capture_output=True, text=True)
    seconds = round(time.monotonic() - begin, 1)
    pods = {pod["name"]: pod for pod in json.loads(subprocess.check_output([PROGRAM, "list", "-o", "json"]))}
    status = json.loads(subprocess.check_output(["/usr/lib/casemate/bin/casemate-microvm", "status"]))
    for name in names:
        (MANIFESTS / f"{name}.json").unlink()
    subprocess.run([PROGRAM, "sync"], capture_output=True, check=True)
    return {
        "ready": sum(pods[name]["ready"] for name in names if name in pods),
        "restarts": sum(pods[name]["restarts"] for name in names if name in pods),
        "crowd_s": seconds,
        "started_in_s": sorted(s.get("started_in_s", -1) for s in status["sandboxes"]),
        "cold": sum(s.get("started_from") != "template" for s in status["sandboxes"]),
        "problems": json.loads(done.stdout)["problems"],
        "left": added(before, settled(before, 60)),
    }


if __name__ == "__main__":
    shutil.rmtree("/tmp/casemate-test", ignore_errors=True)
    os.makedirs("/tmp/casemate-test")
    print(json.dumps({"row": row, "crowd": crowd}[sys.argv[1]](int(sys.argv[2]))))
    shutil.rmtree("/tmp/casemate-test")
