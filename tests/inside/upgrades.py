"""Runs on an appliance: restarts, kills and replaces engine and programs beneath a running pod; prints JSON.

usage: upgrades plain|packages

Each row: {"step", "pids_same": the pod's processes are the same as before, "exec": [code, output], "new_pod": the same
from a pod started afterwards}; and "away": what was reported of what ended while the engine was away.
"""

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

from crashes import engine, engine_back, kill, pid_of, processes, victim
from cri_pods import Pod, cri, execute, sh, status, wait

LIB = Path("/usr/lib/casemate")
ARCHIVE = Path("/usr/lib/casemate-node.pyz")
ALIVE = sh("while :; do sleep 1; done")


class Watched:
    """A pod that has to outlive what is done beneath it."""

    def __init__(self):
        self.rows = []
        self.pod = Pod("kept")
        self.container = self.pod.container(*ALIVE)
        self.pids = self.look()

    def look(self):
        return [pid_of(self.pod.id), pid_of(self.container), victim("qemu", self.pod.id), victim("shim", self.pod.id)]

    def step(self, name, **more):
        engine_back()
        row = {"step": name, "pids_same": self.look() == self.pids}
        row["state"] = status(self.container).state
        row["exec"] = execute(self.container, *sh("echo alive"))[:2]
        new = Pod("new")
        row["new_pod"] = execute(new.container(*ALIVE), *sh("echo alive"))[:2]
        new.remove()
        self.rows.append(row | more)

    def signal(self):
        """End the container's program by a signal, through all the layers, and return its exit code."""
        cri.call("StopContainer", 60, container_id=self.container, timeout=10)
        return wait(self.container)


def restarts(pod):
    subprocess.run(["systemctl", "restart", "containerd"], check=True)
    pod.step("containerd restarted")
    kill(engine())
    time.sleep(0.2)
    pod.step("containerd killed")


def away():
    """What ends while the engine is away: a program by itself, and a guest whose QEMU is killed."""
    one, two, three = Pod("away"), Pod("away"), Pod("away")
    ends = one.container(*sh("sleep 3; exit 7"), name="ends")
    stays = one.container(*ALIVE, name="stays")
    dies, shimless = two.container(*ALIVE), three.container(*ALIVE)
    qemu, shim = victim("qemu", two.id), victim("shim", three.id)
    subprocess.run(["systemctl", "stop", "containerd"], check=True)
    kill(qemu)
    kill(shim)
    stand_in = pid_of(ends)
    end = time.monotonic() + 60
    while Path(f"/proc/{stand_in}").exists() and time.monotonic() < end:
        time.sleep(0.2)
    subprocess.run(["systemctl", "start", "containerd"], check=True)
    engine_back()
    seen = {"ends": wait(ends), "stays": execute(stays, *sh("echo alive"))[:2], "dies": wait(dies),
            "shimless": wait(shimless)}  # fmt: skip
    seen["ready"] = [cri.call("PodSandboxStatus", pod_sandbox_id=p.id).status.state == 0 for p in (one, two, three)]
    for pod in (one, two, three):
        pod.remove()
    seen["processes"] = processes("_supervise") + processes("qemu-system")
    return seen


def release(number):
    """Install this host's programs with something changed; return the release's directory."""
    data = io.BytesIO(ARCHIVE.read_bytes())
    with zipfile.ZipFile(data, "a") as archive:
        archive.writestr(f"appliance/node/changed-{number}", str(number))
    changed = Path("/tmp/casemate-test/changed.pyz")
    changed.write_bytes(data.getvalue())
    subprocess.run([sys.executable, str(changed), "install"], check=True, capture_output=True)
    return (LIB / "current").resolve()


def releases(pod):
    """Five upgrades of our own programs while a pod of the first release runs."""
    first = (LIB / "current").resolve()
    try:
        made = [release(number) for number in range(5)]
        gone = [path.name for path in made[:2] if path.exists()]
        pod.step("five releases later", first_kept=first.exists(), too_many=gone,
                 by=(Path("/run/casemate/microvm") / pod.pod.id / "release").readlink() == first)  # fmt: skip
    finally:
        subprocess.run([sys.executable, str(ARCHIVE), "install"], check=True, capture_output=True)
    pod.step("back to the first release")


def packages(pod):
    """Each of the versions that apt offers of the engine and of QEMU, and back."""
    for name in ("containerd", "qemu-system-x86"):
        lines = subprocess.check_output(["apt-cache", "madison", name], text=True).splitlines()
        offered = [line.split("|")[1].strip() for line in lines]
        had = subprocess.check_output(["dpkg-query", "-W", "-f", "${Version}", name], text=True)
        for version in [*[v for v in offered if v != had][:1], had]:
            install(name, version)
            now = subprocess.check_output(["dpkg-query", "-W", "-f", "${Version}", name], text=True)
            pod.step(f"{name} {version}", installed=now == version)


def install(name, version):
    """Install one of the versions that apt offers of a package."""
    wanted = [f"{name}={version}"]
    if name.startswith("qemu"):  # all of one source are of one version
        out = subprocess.check_output(["dpkg-query", "-W", "-f", "${Package} ${source:Package}\n"], text=True)
        wanted = [f"{p}={version}" for p in re.findall(r"^(\S+) qemu$", out, re.MULTILINE)]
    argv = ["apt-get", "-qq", "-y", "--allow-downgrades", "-o", "Dpkg::Options::=--force-confold", "install", *wanted]
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(argv, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-1000:]


def main(what):
    shutil.rmtree("/tmp/casemate-test", ignore_errors=True)
    os.makedirs("/tmp/casemate-test")
    pod = Watched()
    seen = {}
    with contextlib.ExitStack() as stack:
        stack.callback(pod.pod.remove)
        if what == "plain":
            restarts(pod)
            seen["away"] = away()
            releases(pod)
        else:
            packages(pod)
        seen["code"] = pod.signal()
    shutil.rmtree("/tmp/casemate-test")
    print(json.dumps(seen | {"rows": pod.rows}, indent=1))


if __name__ == "__main__":
    main(sys.argv[1])
