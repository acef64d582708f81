"""Containers' logs as CRI has engines write them: NAMESPACE_NAME_UID/CONTAINER/ATTEMPT.log.

A line is TIME STREAM TAG TEXT. Read from the files alone, so that a pod's last words can be had while the engine is
down, too.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import select
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from .names import meant
from .translate import LOG_ROOT

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_LOOK_MS = 250
_LOOKS_FOR_END = 4
_CHUNK = 1 << 16


class NoLog(Exception):
    """There is no such log; the text says what there is."""


@dataclass(frozen=True)
class Choice:
    """Which lines: the last `tail` of them (None: all), none older than `since` (seconds since the epoch)."""

    tail: int | None = None
    since: float = 0
    previous: bool = False
    timestamps: bool = False


def moment(text: str, now: float | None = None) -> float:
    """`90s`, `5m`, `2h` or `1d` ago, or a date and time of ISO 8601, in seconds since the epoch. Raises ValueError."""
    if match := re.fullmatch(r"(\d+)([smhd])", text):
        return (time.time() if now is None else now) - int(match[1]) * _UNITS[match[2]]
    return datetime.fromisoformat(text).timestamp()


def containers(pod: str, root: Path = LOG_ROOT) -> dict[str, Path]:
    """The log directories of a pod's containers, by container. `pod` is NAME or NAMESPACE/NAME. Raises NoSuchPod."""
    there = {path: tuple(path.name.split("_")[:2]) for path in root.glob("*_*_*")}
    wanted = meant(pod, there.values(), "has logs")
    newest = max((path for path in there if there[path] == wanted), key=lambda path: path.stat().st_mtime)
    return {path.name: path for path in sorted(newest.iterdir()) if path.is_dir() and _attempts(path)}


def show(directory: Path, choice: Choice, over: Callable[[], bool] | None = None) -> None:
    """Print a container's log; with `over`, go on with what it and its successors write, until `over()` or a hang-up.

    Raises NoLog when there is no such attempt.
    """
    attempts = _attempts(directory)
    position = -2 if choice.previous else -1
    if len(attempts) < -position:
        raise NoLog(f"container {directory.name} has no log of {'a former' if choice.previous else 'an'} attempt")
    attempt = attempts[position]
    former, current = directory / f"{attempt}.log.1", directory / f"{attempt}.log"
    out = sys.stdout.buffer
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(path.open("rb")) for path in (former, current) if path.exists()]
        lines: Iterable[bytes] = (line for file in files for line in file if _time(line) >= choice.since)
        for line in lines if choice.tail is None else deque(lines, choice.tail):
            out.write(_text(line, choice.timestamps))
        out.flush()
        if over is not None:
            _follow(files[-1], current, choice.timestamps, over, out)


def _follow(file: BinaryIO, path: Path, timestamps: bool, over: Callable[[], bool], out: BinaryIO) -> None:
    """Print what is added to `file`, then to those that take its place."""
    reader = select.poll()
    reader.register(out, 0)  # to hear that nobody reads any more
    begun = b""
    with contextlib.ExitStack() as stack:
        for look in itertools.count(1):
            if reader.poll(_LOOK_MS):
                return
            # Asked before reading, so that what was written until then is shown.
            last = look % _LOOKS_FOR_END == 0 and over()
            successor = _successor(file, path)
            while piece := file.read(_CHUNK):
                *whole, begun = (begun + piece).split(b"\n")
                out.writelines(_text(line + b"\n", timestamps) for line in whole)
            out.flush()
            if successor:
                path, begun = successor, b""
                file = stack.enter_context(path.open("rb"))
            elif last:
                return


def _successor(file: BinaryIO, path: Path) -> Path | None:
    """The file that the engine writes instead of `file` by now: after a rotation, or of the next attempt."""
    with contextlib.suppress(FileNotFoundError):
        if not os.path.samestat(os.fstat(file.fileno()), path.stat()):
            return path
    later = [number for number in _attempts(path.parent) if number > int(path.stem)]
    return path.with_name(f"{later[0]}.log") if later else None


def _attempts(directory: Path) -> list[int]:
    found = directory.glob("*.log") if directory.is_dir() else []
    return sorted(int(path.stem) for path in found if path.stem.isdigit())


def _time(line: bytes) -> float:
    with contextlib.suppress(ValueError):
        return datetime.fromisoformat(line.split(b" ", 1)[0].decode()).timestamp()
    return 0


def _text(line: bytes, timestamps: bool) -> bytes:
    """A log line's text; the engine cuts long ones, and only the last piece (tag F) ends the program's line."""
    parts = line.split(b" ", 3)
    if len(parts) < 4:
        return line
    stamp, _, tag, text = parts
    return (stamp + b" " if timestamps else b"") + (text if tag.startswith(b"F") else text.rstrip(b"\n"))
