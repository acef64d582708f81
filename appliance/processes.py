"""Processes: children that do not outlive us, and a name for one that no later process can be taken for.

Imported by the action plugin casemate_lock too, so it keeps to the standard library.
"""

import ctypes
import getpass
import os
import signal
import time
from pathlib import Path

PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """For `preexec_fn`: the kernel kills the child when we die, so that what a killed command began does not go on."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def describe(pid: int, verb: str) -> dict:
    """Who does `verb`: {"run", "verb", "user", "machine", "boot", "pid", "started", "since"}; "run" names it alone."""
    started = start_time(pid)
    return {
        "run": f"{boot_id()}-{pid}-{started}",
        "verb": verb,
        "user": os.environ.get("SUDO_USER") or getpass.getuser(),
        "machine": os.uname().nodename,
        "boot": boot_id(),
        "pid": pid,
        "started": started,
        "since": time.time(),
    }


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def start_time(pid: int) -> str:
    """The process' start in clock ticks since boot ("" when there is none): with it, a pid names one process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""
