"""One file from an address, going on with what is there of it, and its checksum. Of hosts and the admin's machine."""

from __future__ import annotations

import hashlib
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

_BLOCK = 1 << 20
_STALLED_SECONDS = 60
_ATTEMPTS = 3


class FetchError(Exception):
    """A file cannot be had; the message is why, without its address."""


class TooLong(FetchError):
    """What the server sends is longer than the file that is wanted."""


def fetch(url: str, part: Path, size: int, on_bytes: Callable[[int], None] = lambda count: None) -> None:
    """Append what is missing to `part`; a server that cannot go on from there sends all of it again.

    `size` in bytes is 0 where it is not known; `on_bytes` hears of each block as it comes. What came is not judged: see
    `wrong`. Raises FetchError after a few attempts; what came stays, but of a file that is too long nothing does.
    """
    trouble = ""
    for _attempt in range(_ATTEMPTS):
        begin = part.stat().st_size if part.exists() else 0
        if size and begin == size:
            return
        try:
            trouble = _append(url, part, begin, size, on_bytes)
            if not trouble:
                return
        except urllib.error.HTTPError as error:
            if error.code == 416 and begin:  # it is all there, or the server has another file
                return
            trouble = f"the server answered {error.code} {error.reason}"
            if error.code < 500:
                break
        except OSError as error:
            trouble = str(getattr(error, "reason", error))
    raise FetchError(trouble)


def wrong(path: Path, checksum: str, size: int) -> str:
    """What is wrong with a file that was fetched, "" for nothing. A wrong one is deleted. `checksum`: ALGORITHM:HEX."""
    algorithm, _, wanted = checksum.partition(":")
    found = sum_of(path, algorithm)
    if found == wanted.lower():
        return ""
    there = path.stat().st_size
    path.unlink()  # the next attempt starts anew
    if size and there < size:
        return f"is cut short: {there} of {size} bytes"
    return f"has the {algorithm} checksum {found}, not {wanted}"


def sum_of(path: Path, algorithm: str = "sha256") -> str:
    """A file's checksum in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def _append(url: str, part: Path, begin: int, size: int, on_bytes: Callable[[int], None]) -> str:
    """One attempt; "" where the server sent all that it announced."""
    headers = {"Range": f"bytes={begin}-"} if begin else {}
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - inventory or lock say from where, a checksum what
    with urllib.request.urlopen(request, timeout=_STALLED_SECONDS) as answer:  # noqa: S310
        going_on = begin and getattr(answer, "status", 200) == 206
        announced = answer.headers.get("Content-Length")
        got, before = 0, begin if going_on else 0
        with part.open("ab" if going_on else "wb") as file:
            while block := answer.read(_BLOCK):
                got += len(block)
                if size and before + got > size:
                    break
                file.write(block)
                on_bytes(len(block))
    if size and before + got > size:
        part.unlink()
        raise TooLong(f"it is longer than {size} bytes")
    if announced is None or got == int(announced):
        return ""
    return f"the connection ended after {got} of {announced} bytes"
