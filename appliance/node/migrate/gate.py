"""Whether pods are ready: what a migration waits for before anything is removed."""

from __future__ import annotations

import subprocess

_SYNC = ["/usr/lib/casemate/bin/casemate-pod", "sync", "--output=text"]


def ready(names: list[str], seconds: float) -> str:
    """Bring pods to what is declared and wait for these; why one is not ready, "" where all are."""
    waiting = [f"--wait={seconds:g}", *(f"--for={name}" for name in names)]
    done = subprocess.run([*_SYNC, *waiting], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stderr.strip()[-1000:] or "casemate-pod sync failed"
