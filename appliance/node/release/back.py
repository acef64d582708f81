"""Going back to a release that is kept on this host: a transaction that needs nothing and nobody from outside."""

from __future__ import annotations

import threading
from collections.abc import Callable

from . import guard, locked, transaction, watch

_REASON = 200  # characters


def go(to: str, grace: float, report: Callable[[str], None]) -> None:
    """Bring the host to release `to`, see that it is well, and commit; or have the guard put back what was here.

    Raises TransactionError, PackageError, GateError: the host is what it was then, or the guard is about to see to it.
    """
    versions, _ = transaction.packages_of(to)
    there = locked.installed()
    changes = {name: there.get(name) for name, version in versions.items() if there.get(name) != version}
    transaction.begin(to, changes, report, failing=watch.failing())
    guard.arm()
    over = threading.Event()
    try:
        threading.Thread(target=_renew, args=(over,), daemon=True).start()
        transaction.go_back(to, report)
        found = transaction.current()
        if found is None:
            raise transaction.TransactionError("the guard rolled this back in between: journalctl -u casemate-guard")
        report("restarting what changed")
        watch.restart_what_changed(found.monotonic)
        watch.gate(found.pods, found.failing, grace, report)
        transaction.commit(found)
        guard.disarm()
    except Exception as error:
        if transaction.current() is not None:
            guard.ask(str(error)[:_REASON])
        raise
    finally:
        over.set()


def _renew(over: threading.Event) -> None:
    while not over.wait(guard.RENEW_SECONDS):
        if transaction.current() is None:
            return
        guard.renew()
