"""Files from the network, each by its checksum, kept in the user's cache: a download that was cut off goes on."""

import hashlib
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from appliance.errors import CasemateError

_BLOCK = 1 << 20
_STALLED_SECONDS = 60
_ATTEMPTS = 3
_AT_ONCE = 4


class Wanted(NamedTuple):
    """A file to be had: `checksum` is ALGORITHM:HEX; `size` in bytes, 0 where it is not known."""

    name: str
    url: str
    checksum: str
    size: int

    @property
    def path(self) -> Path:
        """Where it is once it is there."""
        return directory() / self.checksum.replace(":", "-")


def directory() -> Path:
    """Where downloads are kept."""
    path = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "casemate" / "downloads"
    path.mkdir(parents=True, exist_ok=True)
    return path


def fetch(wanted: list[Wanted], on_bytes: Callable[[int], None] = lambda count: None) -> None:
    """Have each of the files in the cache, whole and right. `on_bytes` hears of each part as it comes.

    Raises CasemateError naming every file that cannot be had; what came so far is kept.
    """
    missing = [one for one in wanted if not one.path.exists()]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        troubles = [text for text in pool.map(lambda one: _fetch(one, on_bytes), missing) if text]
    if troubles:
        raise CasemateError(
            f"{len(troubles)} of {len(wanted)} files cannot be had:\n"
            + "\n".join(f"  {text}" for text in troubles[:10]),
            cure="run the same command again: it goes on where it ended; or make a new lock: appliance lock",
        )


def sum_of(path: Path, algorithm: str = "sha256") -> str:
    """A file's checksum in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def _fetch(one: Wanted, on_bytes: Callable[[int], None]) -> str:
    """Why this file cannot be had; "" once it is there."""
    part = one.path.with_name(f"{one.path.name}.part")
    trouble = ""
    for _attempt in range(_ATTEMPTS):
        begin = part.stat().st_size if part.exists() else 0
        if one.size and begin >= one.size:
            break
        request = urllib.request.Request(one.url, headers={"Range": f"bytes={begin}-"} if begin else {})  # noqa: S310 - the lock says from where, the checksum what
        try:
            with urllib.request.urlopen(request, timeout=_STALLED_SECONDS) as answer:  # noqa: S310
                going_on = begin and answer.status == 206
                with part.open("ab" if going_on else "wb") as file:
                    while block := answer.read(_BLOCK):
                        file.write(block)
                        on_bytes(len(block))
            trouble = ""
            break
        except urllib.error.HTTPError as error:
            trouble = f"the server answered {error.code} {error.reason}"
            if error.code == 416:
                trouble = ""
                break
            if error.code < 500:
                break
        except OSError as error:
            trouble = str(getattr(error, "reason", error))
    if trouble:
        return f"{one.name}: {one.url}: {trouble}"
    algorithm, _, wanted = one.checksum.partition(":")
    found = sum_of(part, algorithm)
    if found != wanted.lower():
        size = part.stat().st_size
        part.unlink()
        if one.size and size < one.size:
            return f"{one.name}: {one.url} is cut short: {size} of {one.size} bytes"
        return f"{one.name}: {one.url} has the {algorithm} checksum {found}, not {wanted}"
    part.replace(one.path)
    return ""
