"""Who rolls back when nobody else does: a service that watches a transaction and whether its run is still there.

The run, on the admin's machine, has a line sent every few seconds through a connection of its own; each makes the
host note its uptime in `transaction/lease`. When no note came for `LEASE_SECONDS`, be it that the run was killed, its
machine or the network, the guard rolls back. It does so as well when the host was started anew in between, and when it
is asked to: it alone ever does, so that it happens once. Time is the kernel's since boot, so that a clock that jumps
changes nothing.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from . import transaction, watch
from .transaction import PLACE

LEASE_SECONDS = 60
RENEW_SECONDS = 5
_LOOK_SECONDS = 1
_ROLLBACK_SECONDS = 900
ASKED = PLACE / "rollback-asked"
_UNIT = Path("/etc/systemd/system/casemate-guard.service")
_WANTED = Path("/etc/systemd/system/multi-user.target.wants") / _UNIT.name
LEASE = PLACE / "lease"
# Before the engine at boot: a host that went down in the middle comes up with the release that it had before.
_TEXT = f"""\
# Written by Casemate while a release is changed; it goes with the change.
[Unit]
Description=Rolls a change of release back when its run is gone
DefaultDependencies=no
After=local-fs.target dbus.service
Before=containerd.service casemate-pods.service
RequiresMountsFor={transaction.records.STATE}
ConditionPathExists={PLACE}/state.json
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=all
ExecStart=/usr/bin/python3 -B {PLACE}/casemate-node.pyz release guard
Restart=on-failure
RestartSec=5
TimeoutStartSec=900
KillMode=process
"""
HOLD = (
    f'while IFS= read -r -t {LEASE_SECONDS} _; do grep -qsF "$0" {PLACE}/state.json && '
    f"cat /proc/uptime > {LEASE}.new && mv {LEASE}.new {LEASE}; done"
)
"""The shell program that notes the lease: bash's, reading a line every RENEW_SECONDS from the run that $0 names. Where
the change is another run's, it notes nothing."""


def arm() -> None:
    """Have the guard watch, now and from the next boot on. Where it does not, the transaction ends. Raises why."""
    try:
        _arm()
    except (OSError, transaction.TransactionError):
        disarm()
        transaction.discard()
        raise


def _arm() -> None:
    renew()
    new = _UNIT.with_suffix(".new")
    new.write_text(_TEXT)
    new.replace(_UNIT)
    _WANTED.parent.mkdir(parents=True, exist_ok=True)
    _WANTED.unlink(missing_ok=True)
    _WANTED.symlink_to(_UNIT)
    _systemctl("daemon-reload")
    done = _systemctl("start", _UNIT.name)
    if done.returncode:
        raise transaction.TransactionError(f"the guard does not start, so nothing is changed: {done.stderr.strip()}")


def disarm() -> None:
    """The guard goes: the transaction has ended."""
    _WANTED.unlink(missing_ok=True)
    _UNIT.unlink(missing_ok=True)
    _systemctl("stop", "--no-block", _UNIT.name)
    _systemctl("daemon-reload")


def renew() -> None:
    """Note that the run is there, at once: the guard may read it at any time, and takes an empty one for none."""
    new = LEASE.with_suffix(".renewed")  # the run's own shell has another name for its
    new.write_text(Path("/proc/uptime").read_text())
    new.replace(LEASE)


def ask(reason: str) -> None:
    """Have the guard roll back, and wait until it has. Raises TransactionError where it has not in time."""
    new = ASKED.with_suffix(".new")
    new.write_text(reason)
    new.replace(ASKED)
    _systemctl("start", "--no-block", _UNIT.name)
    until = time.monotonic() + _ROLLBACK_SECONDS
    while transaction.current() is not None:
        if time.monotonic() > until:
            raise transaction.TransactionError(
                f"not rolled back within {_ROLLBACK_SECONDS} s, the guard goes on: journalctl -u casemate-guard"
            )
        time.sleep(_LOOK_SECONDS)


def guard(ready: Callable[[], None], report: Callable[[str], None]) -> None:
    """Watch until the transaction has ended; roll it back where it is left alone. `ready` lets the boot go on."""
    found = transaction.current()
    if found is None:
        disarm()
        return
    if found.boot != watch.boot():
        # Services are not up yet, and come up with what is put back.
        _roll_back(found, found.reason or "the host was started anew in the middle", report, restart=False)
    ready()
    while (found := transaction.current()) is not None:
        if reason := _reason(found):
            _roll_back(found, reason, report, restart=True)
        time.sleep(_LOOK_SECONDS)


def _reason(found: transaction.Transaction) -> str:
    """Why this transaction is to be rolled back now; "" to let it go on."""
    if found.phase == "rolling back":
        return found.reason  # we were cut off
    if ASKED.exists():
        return ASKED.read_text()
    age = _age()
    return f"its run was not heard of for {age:.0f} s" if age > LEASE_SECONDS else ""


def _roll_back(found: transaction.Transaction, reason: str, report: Callable[[str], None], restart: bool) -> None:
    report(f"rolling back to {found.before or 'the release before'}: {reason}")
    transaction.rollback(found, reason, report, restart)
    report("rolled back")
    disarm()


def _age() -> float:
    """Seconds since the run was last heard of."""
    now = float(Path("/proc/uptime").read_text().split()[0])
    try:
        return now - float(LEASE.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return float("inf")


def _systemctl(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run(["systemctl", *words], capture_output=True, text=True, check=False)
