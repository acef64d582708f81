"""MicroVMs: what a dead engine left of them, and their user."""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
from pathlib import Path

from appliance.node.microvm import sandboxes, settings
from appliance.node.reset.remover import Remover, run


def reset(remover: Remover, options: dict) -> None:
    """End what runs as the microVMs' user, unmount the sandboxes, remove the user."""
    user = settings.load().user
    try:
        uid = pwd.getpwnam(user).pw_uid
    except KeyError:
        uid = None
    if uid:
        for pid in _processes(uid):
            remover.do(f"process {pid} of {user}", lambda pid=pid: _kill(pid))
    for sandbox in sandboxes.all_sandboxes():
        remover.do(f"microVM {sandbox.id}", sandbox.remove)
    # the user is ours when the file that declares it is
    if uid and Path("/etc/sysusers.d/casemate-microvm.conf").exists():
        remover.do(f"user {user}", lambda: run("userdel", user))


def _processes(uid: int) -> list[int]:
    return [int(entry.name) for entry in Path("/proc").glob("[0-9]*") if _owner(entry) == uid]


def _owner(process: Path) -> int | None:
    with contextlib.suppress(OSError):
        return process.stat().st_uid
    return None


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
