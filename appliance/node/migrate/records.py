"""What this host knows of migrations that are under way or were cut off: small files that outlive a power cut.

leaving.json     pods are copied, stopped, or being let go, because they are moving away
arriving.json    something is being brought here; all that it names is removed when that fails
left/ID.json     a migration whose pods this host has let go, until the target has heard of it
arrived/ID.json  one whose pods are ready here, until the source is known to have let go
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from appliance.node.microvm.store import read_json, write_json

STATE = Path("/var/lib/casemate/migrate")
LEAVING, ARRIVING = STATE / "leaving.json", STATE / "arriving.json"
LEFT, ARRIVED = STATE / "left", STATE / "arrived"


def load(path: Path) -> dict[str, Any] | None:
    """What was noted there, None for nothing."""
    return read_json(path)


def note(path: Path, content: dict[str, Any]) -> None:
    """Write it down so that it is there after a power cut."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_json(path, content, 0o600)
    _settle(path.parent)


def promote(path: Path, directory: Path, identity: str) -> None:
    """Move what was noted to `directory`/IDENTITY.json, in one step."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.replace(directory / f"{identity}.json")
    _settle(directory)
    _settle(path.parent)


def drop(path: Path) -> None:
    path.unlink(missing_ok=True)


def unconfirmed() -> list[dict[str, Any]]:
    """The arrivals of which nobody said yet that their source let go."""
    return [found for path in sorted(ARRIVED.glob("*.json")) if (found := read_json(path))]


@contextlib.contextmanager
def held(wait: bool = True) -> Iterator[bool]:
    """Be the one that changes these records; gives whether that is so, without `wait` not where another is."""
    STATE.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (STATE / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True


def _settle(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
