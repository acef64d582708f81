"""Runs on an appliance: what a change of release may touch, as it is now; prints JSON.

{"services": {name: [PID, start]}, "pods": {NAMESPACE/NAME: {container: [PID, start]}}, "microvms": {NAMESPACE/NAME:
{"process": [PID, start] of its QEMU, "replaced": its program is not the one that is installed}}, "boot": the boot's id,
"packages": {name: version}}. A start is in clock ticks since boot: with it a PID names one process.
"""

import json
import os
import subprocess
from pathlib import Path

from appliance.node.release import locked, watch


def process(pid):
    return [pid, int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])]


def main_process(unit):
    told = subprocess.run(["systemctl", "show", "-P", "MainPID", unit], capture_output=True, text=True, check=True)
    return process(int(told.stdout)) if told.stdout.strip() not in ("", "0") else None


def sandboxes():
    """Each QEMU's command line and control group, one of which names its sandbox, by PID."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            argv = (path / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if "qemu-system" in argv[0]:
                found[int(path.name)] = " ".join(argv) + (path / "cgroup").read_text()
        except OSError:
            continue
    return found


def microvms():
    from appliance.node.pods import settings
    from appliance.node.pods.cri import Cri
    from appliance.node.pods.listing import list_pods

    there = sandboxes()
    configured = settings.load()
    rows = [one for one in list_pods(Cri(configured.socket), configured) if one["runtime"] == "microvm"]
    found = {}
    for row in rows:
        (pid,) = (pid for pid, words in there.items() if row["sandbox_id"] in words)
        replaced = os.readlink(f"/proc/{pid}/exe").endswith(" (deleted)")
        found[f"{row['namespace']}/{row['name']}"] = {"process": process(pid), "replaced": replaced}
    return found


if __name__ == "__main__":
    units = subprocess.check_output(
        ["systemctl", "list-units", "--plain", "--no-legend", "--state=active", "casemate-pod@*"], text=True
    )
    runners = [line.split()[0] for line in units.splitlines()]
    found = {
        "services": {name: main_process(name) for name in watch.SERVICES} | {u: main_process(u) for u in runners},
        "pods": {name: pod["processes"] for name, pod in watch.pods().items()},
        "microvms": microvms(),
        "boot": watch.boot(),
        "packages": locked.installed(),
    }
    print(json.dumps(found))
