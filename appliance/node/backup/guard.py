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

_READY_SECONDS = 300
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


def ready() -> str:
    """Have all declared pods started; why one is not ready in the end, "" where all are."""
    sync = ["/usr/lib/casemate/bin/casemate-pod", "sync", f"--wait={_READY_SECONDS}"]
    done = subprocess.run(sync, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else f"not all pods are ready: {done.stderr.strip()[-300:]}"


def _stop(names: list[str]) -> None:
    from appliance.node.pods import settings, teardown
    from appliance.node.pods.cri import Cri

    teardown.take_down(Cri(settings.load().socket), names)
