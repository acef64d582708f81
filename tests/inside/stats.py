"""Runs on an appliance: what a busy, a holding and an idle container use, and what their pod costs; prints JSON."""

import glob
import json
import os
import shutil
import subprocess
import sys
import time

from cri_pods import RUNTIME, Pod, cri, sh, status

from appliance.node.pods import cgroups, settings, use

HELD = 50 << 20
IDLE = "exec busybox sleep 9999"
HOLD = (
    f"busybox dd if=/dev/zero of=/dev/shm/held bs=1M count={HELD >> 20} 2>/dev/null; echo held; exec busybox sleep 9999"
)
WORKLOADS = {"busy": "while :; do :; done", "holds": HOLD, "idle": IDLE}


def main():
    shutil.rmtree("/tmp/casemate-test", ignore_errors=True)
    os.makedirs("/tmp/casemate-test")
    print(json.dumps({handler: look(handler) for handler in sys.argv[1:]}))


def look(handler):
    pod = Pod("st", handler=handler, memory=128 << 20, cgroup_parent=settings.load().cgroup_parent("st"))
    ids = {name: pod.container(*sh(script), name=name) for name, script in WORKLOADS.items()}
    end = time.monotonic() + 120
    while pod.log("holds")["stdout"] != "held\n" and time.monotonic() < end:
        time.sleep(0.2)
    # The first names of containers in tests are made unique; ours are told apart by their ids.
    names = {status(identifier).metadata.name: name for name, identifier in ids.items()}
    row = {"sandbox_id": pod.id, "runtime": handler}
    use.measure(cri, [row])
    seen = {"host": row["host"], "containers": {names[name]: found for name, found in row["containers"].items()}}
    told = cri.call("PodSandboxStats", pod_sandbox_id=pod.id).stats.linux
    seen["cri"] = {"memory_bytes": told.memory.usage_bytes.value, "cpu_ns": told.cpu.usage_core_nano_seconds.value}
    if handler == "microvm":
        printed = subprocess.run([RUNTIME, "stats", ids["holds"]], capture_output=True, check=True).stdout
        seen["printed"] = json.loads(printed)
        seen["printed"]["containers"] = {
            name: seen["printed"]["containers"][identifier] for name, identifier in ids.items()
        }
    pod.remove()
    cgroups.remove("st")
    seen["left"] = glob.glob("/sys/fs/cgroup/**/*pod_st*", recursive=True)
    return seen


if __name__ == "__main__":
    main()
