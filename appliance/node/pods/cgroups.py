"""A control group a pod, so that what it costs the host is one number; removed with the pod, as no engine does it."""

from __future__ import annotations

import contextlib
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
PLAIN = "/k8s.io/pod_{}"


def slice_of(pod_name: str) -> str:
    """The pod's slice, where systemd makes control groups; a hyphen in its name would mean one more level."""
    return f"casemate-{pod_name.replace('-', '_')}.slice"


def remove(pod_name: str, root: Path = ROOT) -> None:
    """Remove the control group of a pod that has no containers any more; one that is in use stays."""
    slice_path = f"/casemate.slice/{slice_of(pod_name)}"
    if _found(slice_path, root):
        import subprocess  # not for every runner to hold

        subprocess.run(["systemctl", "stop", slice_of(pod_name)], capture_output=True, check=False)
    for group in _found(PLAIN.format(pod_name), root) + _found(slice_path, root):
        with contextlib.suppress(OSError):
            group.rmdir()


def _found(path: str, root: Path) -> list[Path]:
    """A control group's directories: one with cgroup v2, one in each hierarchy with v1."""
    return [*root.glob(path[1:]), *root.glob(f"*{path}")]
