"""Waiting one's turn: a bound on how many processes of this host do one thing at a time, kept by locks on files.

The kernel takes a lock back with its process, so one that is killed leaves its place to the next.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

_LOOK_SECONDS = 0.02


@contextlib.contextmanager
def place(directory: Path, name: str, count: int) -> Iterator[None]:
    """Wait until fewer than `count` others are in a place `name` of `directory`, which exists, and be one of them."""
    with locked(directory / f".next-{name}"):  # one waits for a place, the others for their turn
        while (taken := _free_place(directory, name, count)) is None:
            time.sleep(_LOOK_SECONDS)
    try:
        yield
    finally:
        os.close(taken)


def _free_place(directory: Path, name: str, count: int) -> int | None:
    places = (lock(directory / f".{name}-{n}", wait=False) for n in range(count))
    return next((found for found in places if found is not None), None)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock on `path`, a file that is made if it is missing."""
    held = lock(path, wait=True)
    try:
        yield
    finally:
        os.close(held)


def lock(path: Path, wait: bool, flags: int = os.O_CREAT) -> int | None:
    """Open `path` and lock it; return the descriptor that holds the lock, or None when it is taken."""
    held = os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags, 0o600)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        os.close(held)
        return None
    except BaseException:  # a signal's handler that raises
        os.close(held)
        raise
    return held
