"""Runs on an appliance: pods and containers made through CRI there, for the scripts beside this file."""

import contextlib
import glob
import json
import os
import subprocess
import time
import uuid
from pathlib import Path

from appliance.node.microvm.sandboxes import all_sandboxes
from appliance.node.pods.cri import Cri, CriError

IMAGE = {"image": "localhost/casemate/demo:1"}
RUNTIME = "/usr/lib/casemate/bin/casemate-microvm"


cri = Cri()


class Pod:
    def __init__(self, name="t", memory=0, cpus=0, handler="microvm", config=None, **linux):
        self.name, self.handler = f"{name}-{uuid.uuid4().hex[:6]}", handler
        self.logs = f"/tmp/casemate-test/{self.name}"
        os.makedirs(self.logs)
        namespaces = {"network": 0, "pid": 1, "ipc": 0} | linux.pop("namespaces", {})
        security = linux.pop("security", {})
        self.config = {
            "metadata": {"name": self.name, "uid": uuid.uuid4().hex, "namespace": "test", "attempt": 0},
            "hostname": "" if namespaces["network"] == 2 else self.name,
            "log_directory": self.logs,
            "dns_config": {"servers": ["192.0.2.53"]},
            "labels": {"test": "microvm"},
            "linux": {
                "security_context": {"namespace_options": namespaces, **security},
                "resources": {"memory_limit_in_bytes": memory, "cpu_period": 100000, "cpu_quota": cpus * 100000},
                **linux,
            },
        } | (config or {})
        begin = time.monotonic()
        self.id = cri.call("RunPodSandbox", 150, config=self.config, runtime_handler=handler).pod_sandbox_id
        self.started_in = round(time.monotonic() - begin, 2)

    def info(self):
        return json.loads(subprocess.run([RUNTIME, "sandbox-info", self.id], capture_output=True, check=True).stdout)

    def qemu(self):
        """Return the PID of the pod's QEMU."""
        return next(
            int(p) for p in os.listdir("/proc")
            if p.isdigit() and b"qemu-system" in cmdline(p) and sandbox_of(p) == self.id
        )  # fmt: skip

    def address(self):
        return cri.call("PodSandboxStatus", pod_sandbox_id=self.id).status.network.ip

    def container(self, *command, name="c", start=True, **fields):
        config = {
            "metadata": {"name": f"{name}-{uuid.uuid4().hex[:6]}", "attempt": 0},
            "image": IMAGE,
            "command": list(command),
            "log_path": f"{name}.log",
            "linux": {"security_context": {"namespace_options": {"pid": 1}}},
        } | fields
        identifier = cri.call(
            "CreateContainer", pod_sandbox_id=self.id, config=config, sandbox_config=self.config
        ).container_id
        if start:
            cri.call("StartContainer", 120, container_id=identifier)
        return identifier

    def log(self, name="c"):
        """Return {"stdout": text, "stderr": text} of a container's CRI log."""
        pieces = {"stdout": [], "stderr": []}
        for line in Path(self.logs, f"{name}.log").read_text().splitlines():
            _, stream, tag, rest = line.split(" ", 3)
            pieces[stream].append(rest + ("\n" if tag == "F" else ""))
        return {stream: "".join(found) for stream, found in pieces.items()}

    def remove(self):
        cri.call("StopPodSandbox", 60, pod_sandbox_id=self.id)
        cri.call("RemovePodSandbox", 60, pod_sandbox_id=self.id)


def status(identifier):
    return cri.call("ContainerStatus", container_id=identifier).status


def wait(identifier, timeout=60):
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        found = status(identifier)
        if found.state == 2:
            return found.exit_code
        time.sleep(0.05)
    return None


def execute(identifier, *command, timeout=120):
    done = cri.call("ExecSync", timeout + 10, container_id=identifier, cmd=list(command), timeout=timeout)
    return [done.exit_code, done.stdout.decode(), done.stderr.decode()]


def refusal(action):
    try:
        action()
    except CriError as error:
        return str(error)
    return None


APPLETS = "mkdir touch head tail tr fold md5sum date wc id httpd grep"


def sh(script):
    """Return a command that runs `script`; the image links few of busybox's applets."""
    functions = "".join(f'{applet}() {{ busybox {applet} "$@"; }}; ' for applet in APPLETS.split())
    return ["/bin/busybox", "sh", "-c", functions + script]


def as_user(user, group):
    context = {"namespace_options": {"pid": 1}, "run_as_user": {"value": user}, "run_as_group": {"value": group}}
    return {"security_context": context}


def mounts_and_devices():
    return {
        "mounts": sum("/run/casemate/microvm" in line for line in Path("/proc/mounts").read_text().splitlines()),
        "directories": sorted(n for n in os.listdir("/run/casemate/microvm") if n[0] != "."),  # those are locks
        "containers": sorted(os.listdir("/run/casemate/microvm/.containers")),
        "qemu": subprocess.run(["pgrep", "-c", "qemu-system"], capture_output=True, text=True).stdout.strip(),
        "namespaces": len(glob.glob("/run/netns/*")),
    }


def cmdline(pid):
    try:
        return Path("/proc", pid, "cmdline").read_bytes()
    except OSError:
        return b""


def sandbox_of(pid):
    """Return the sandbox whose user this process runs as, or None."""
    uid = os.stat(f"/proc/{pid}").st_uid
    for sandbox in all_sandboxes():
        with contextlib.suppress(FileNotFoundError):  # it is being removed
            if sandbox.uid == uid:
                return sandbox.id
    return None
