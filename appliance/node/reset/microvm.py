"""MicroVMs: what a dead engine left of them."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

from appliance.node.microvm import sandboxes, settings
from appliance.node.reset.remover import Remover


def reset(remover: Remover, options: dict) -> None:
    """End what makes templates and what runs as a user of a jail, unmount the sandboxes."""
    remover.unit(settings.PREPARE_UNIT)
    for pid in _processes():
        remover.do(f"process {pid} of a microVM", lambda pid=pid: _kill(pid))
    for sandbox in sandboxes.all_sandboxes():
        remover.do(f"microVM {sandbox.id}", sandbox.remove)


def _processes() -> list[int]:
    ours = range(sandboxes.FIRST_UID, sandboxes.FIRST_UID + sandboxes.UIDS)
    return [int(entry.name) for entry in Path("/proc").glob("[0-9]*") if _owner(entry) in ours]


def _owner(process: Path) -> int | None:
    """Return the owner of a process; a supervisor's directory in /proc is root's, so its status is asked."""
    with contextlib.suppress(OSError):
        return int(process.joinpath("status").read_text().partition("\nUid:\t")[2].split("\t")[0])
    return None


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
