"""What pods leave on an appliance while they are there: for comparing before and after."""

import glob
import os
import subprocess
import time
from pathlib import Path

from cri_pods import cmdline

PROGRAMS = (b"qemu-system", b"containerd-shim", b"microvm/__main__.py", b"runc\0")
DIRECTORIES = (
    "/run/casemate/microvm/*", "/run/casemate/microvm/.containers/*",
    "/run/containerd/runc/k8s.io/*", "/run/containerd/io.containerd.runtime.v2.task/k8s.io/*",
    "/run/containerd/io.containerd.grpc.v1.cri/*/*", "/var/lib/containerd/io.containerd.runtime.v2.task/k8s.io/*",
    "/run/netns/*", "/var/lib/cni/networks/*/[0-9a-f]*", "/var/lib/cni/results/*",
)  # fmt: skip


def traces():
    """Return {kind: set of names} of all that pods may leave."""
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    groups = [base for base, names, _ in os.walk("/sys/fs/cgroup") if "k8s.io" in base or "cri-containerd" in base]
    lists = {
        "containers": ["ctr", "-n", "k8s.io", "containers", "ls", "-q"],
        "snapshots": ["ctr", "-n", "k8s.io", "snapshots", "ls"],
        "interfaces": ["sh", "-c", "ip -o link | grep -o 'veth[^@:]*'"],
    }
    found = {name: set(subprocess.run(argv, capture_output=True, text=True).stdout.splitlines())
             for name, argv in lists.items()}  # fmt: skip
    return found | {
        "processes": {f"{pid} {text[:60]}" for pid, text in _programs()},
        "files": {name for pattern in DIRECTORIES for name in glob.glob(pattern)},
        "mounts": {m for m in mounts if m.startswith(("/run/casemate", "/run/containerd", "/run/netns"))},
        "cgroups": set(groups),
    }


def added(before, after):
    """Return {kind: [names]} of what is in `after` and not in `before`."""
    return {kind: sorted(after[kind] - before[kind]) for kind in after if after[kind] - before[kind]}


def settled(before, seconds=15):
    """Return the traces as soon as nothing is added to `before`, or as they are after `seconds`."""
    end = time.monotonic() + seconds
    while added(before, now := traces()) and time.monotonic() < end:
        time.sleep(0.2)
    return now


def _programs():
    for pid in filter(str.isdigit, os.listdir("/proc")):
        text = cmdline(pid)
        if any(program in text for program in PROGRAMS):
            yield pid, text.replace(b"\0", b" ").decode(errors="replace")
