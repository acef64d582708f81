"""Pods that are stopped for a moment start again, also when the program that stopped them is killed.

Which are stopped is written down before. A process of its own, started through systemd, waits for the program's end.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
from collections.abc import Callable, Iterator

from appliance.node.microvm.store import read_json, write_json

from .settings import STATE

STOPPED = STATE / "stopped.json"
PROGRAM = "/usr/lib/casemate/bin/casemate-backup"


@contextlib.contextmanager
def stopped(names: list[str], report: Callable[[str], None]) -> Iterator[None]:
    """Stop these pods, and their runners first, which would start them again; at the end they start."""
    if not names:
        yield
        return
    pid = str(os.getpid())
    write_json(STOPPED, {"pods": names, "pid": pid}, mode=0o600)
    unit = f"--unit=casemate-backup-guard-{pid}"
    subprocess.run(["systemd-run", "--quiet", "--collect", unit, PROGRAM, "guard", pid], check=True)
    try:
        report(f"stopping {', '.join(names)}")
        _stop(names)
        yield
    finally:
        start_stopped(report)


def start_stopped(report: Callable[[str], None]) -> None:
    """Start what was stopped and not started since."""
    from appliance.node.pods import units

    names = (read_json(STOPPED) or {}).get("pods", [])
    if names:
        report("starting pods")
        units.restart(names)
    STOPPED.unlink(missing_ok=True)


def watch(pid: str, report: Callable[[str], None]) -> None:
    """Wait for the end of a process, then do what it, and no other since, left undone."""
    with contextlib.suppress(ProcessLookupError), os.fdopen(os.pidfd_open(int(pid))) as process:
        select.select([process], [], [])
    if (read_json(STOPPED) or {}).get("pid") == pid:
        start_stopped(report)


def _stop(names: list[str]) -> None:
    """Their sandboxes go as well: what only stops counts as a crash, and starts again after a while that grows."""
    from appliance.node.pods import settings, teardown, units
    from appliance.node.pods.cri import Cri
    from appliance.node.pods.translate import managed_labels

    cri = Cri(settings.load().socket)
    for name in names:
        units.stop(name)
        for sandbox in cri.sandboxes(managed_labels(name)):
            teardown.remove_sandbox(cri, sandbox)
