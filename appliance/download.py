"""Files from the network, each by its checksum, kept in the user's cache: a download that was cut off goes on."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from appliance.errors import CasemateError
from appliance.node import fetch

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


def fetch_all(wanted: list[Wanted], on_bytes: Callable[[int], None] = lambda count: None) -> None:
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


def _fetch(one: Wanted, on_bytes: Callable[[int], None]) -> str:
    """Why this file cannot be had; "" once it is there."""
    part = one.path.with_name(f"{one.path.name}.part")
    try:
        fetch.fetch(one.url, part, one.size, on_bytes)
    except fetch.FetchError as error:
        return f"{one.name}: {one.url}: {error}"
    if what := fetch.wrong(part, one.checksum, one.size):
        return f"{one.name}: {one.url} {what}"
    part.replace(one.path)
    return ""
