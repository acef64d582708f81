"""A control group of its own for each lab host, on machines whose init makes none (no systemd as PID 1).

Without it all hosts would share `/payload` and see each other's containers. Under systemd, a scope does this.
"""

import contextlib
import os
import time
from pathlib import Path

from appliance.lab.state import Host

ROOT = Path("/sys/fs/cgroup")


def _hierarchies() -> list[Path]:
    """The mount point of each hierarchy: one on cgroup v2, one a controller (and `unified`) on v1."""
    if (ROOT / "cgroup.controllers").exists():
        return [ROOT]
    return sorted(d for d in ROOT.iterdir() if d.is_dir() and not d.is_symlink())


def group_of(host: Host) -> list[Path]:
    return [hierarchy / f"casemate-lab-{host.name}" for hierarchy in _hierarchies()]


def make(host: Host) -> None:
    """Make the host's groups; `memory_mib` above 0 becomes their memory limit."""
    for group in group_of(host):
        group.mkdir(exist_ok=True)
        for inherited in ("cpuset.cpus", "cpuset.mems"):  # cgroup v1 takes no process before they are set
            if (group / inherited).exists():
                (group / inherited).write_text((group.parent / inherited).read_text())
        if host.memory_mib:
            for limit in ("memory.limit_in_bytes", "memory.max"):
                if (group / limit).exists():
                    (group / limit).write_text(f"{host.memory_mib}M")


def enter(host: Host) -> None:
    """Move the calling process into the host's groups (used between fork and exec)."""
    for group in group_of(host):
        (group / "cgroup.procs").write_text(str(os.getpid()))


def remove(host: Host) -> None:
    """Remove the groups, children first. The kernel may need a moment after the last process is gone."""
    for group in group_of(host):
        deadline = time.monotonic() + 5
        while group.is_dir() and time.monotonic() < deadline:
            for child, _, _ in os.walk(group, topdown=False):
                with contextlib.suppress(OSError):
                    Path(child).rmdir()
            if group.is_dir():
                time.sleep(0.1)
