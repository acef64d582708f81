"""The lock on a host: what of its release is declared here, and what of that is there.

Each release that was installed by a lock has a directory below `RELEASES`, named by the lock's id: `lock.json` (the
lock's part for this platform) and `debs/`, so that the next release can be left again without a network.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import NamedTuple

from appliance.node.microvm.store import write_json
from appliance.node.reset import records

RELEASES = records.STATE / "releases"
INSTALLED = "ii "


class LockError(Exception):
    """The lock cannot be kept here; the message says what is missing and what to do."""


class Package(NamedTuple):
    """One locked package."""

    name: str
    version: str
    size: int
    sha256: str
    url: str

    @property
    def file(self) -> str:
        """A name of our own for its file: what the package's archive calls it has epochs and tildes in it."""
        return f"{self.name}-{self.sha256[:16]}.deb"


class Release(NamedTuple):
    """One release on this host: its lock's part for this platform, and where it is kept."""

    id: str
    platform: str
    selections: list[dict]
    guest: list[str]
    kernel: list[str]
    packages: dict[str, Package]
    directory: Path

    @property
    def debs(self) -> Path:
        return self.directory / "debs"

    @property
    def is_kept(self) -> bool:
        """Whether the lock itself is on this host."""
        return (self.directory / "lock.json").exists()

    def versions(self, asked: list[str]) -> dict[str, str]:
        """The locked version of all that `needed` names. Raises LockError."""
        return {name: self.packages[name].version for name in self.needed(asked)}

    def needed(self, asked: list[str]) -> list[str]:
        """All that a host needs which asks for these packages. Raises LockError."""
        for selection in self.selections:
            if selection["asked"] == sorted(asked):
                return selection["packages"]
        new = sorted(set(asked) - {name for selection in self.selections for name in selection["asked"]})
        what = f"it has no {', '.join(new)}" if new else "no host that it was made for asks for just these packages"
        raise LockError(
            f"lock {self.id} was not made for what this host declares: {what}; make it again: appliance lock"
        )


def read(content: dict, releases: Path = RELEASES) -> Release:
    """A lock's part for this platform, as `appliance/lock.py` gives it. Raises LockError."""
    try:
        packages = {name: Package(name, **one) for name, one in content["packages"].items()}
        return Release(content["id"], content["platform"], content["selections"], content["guest"], content["kernel"],
                       packages, releases / content["id"])  # fmt: skip
    except (KeyError, TypeError) as error:
        raise LockError(f"this is no lock: {error}") from None


def load(release_id: str, releases: Path = RELEASES) -> Release:
    """A release that is kept here. Raises LockError."""
    path = releases / release_id / "lock.json"
    try:
        return read(json.loads(path.read_text()), releases)
    except (OSError, ValueError, LockError) as error:
        raise LockError(f"{path} cannot be used ({error}); deploy with the lock again") from None


def asked(release: Release) -> list[str]:
    """The packages that this host's roles asked for when the release was installed. Raises LockError."""
    try:
        return json.loads((release.directory / "asked.json").read_text())
    except (OSError, ValueError) as error:
        raise LockError(f"{release.directory}/asked.json cannot be used ({error})") from None


def keep(release: Release, content: dict, asked: list[str]) -> None:
    """Store a lock's part for this platform beside what belongs to it, whole or not at all."""
    release.directory.mkdir(parents=True, exist_ok=True)
    (release.directory / "asked.json").write_text(json.dumps(asked))
    write_json(release.directory / "lock.json", content)


def installed() -> dict[str, str]:
    """The version of every package that is installed whole, by name."""
    shown = ["dpkg-query", "--show", "--showformat=${db:Status-Abbrev}${Package} ${Version}\n"]
    listed = subprocess.run(shown, capture_output=True, text=True, check=True).stdout
    rows = [line.removeprefix(INSTALLED).split() for line in listed.splitlines() if line.startswith(INSTALLED)]
    return {row[0]: row[1] for row in rows if len(row) == 2}


def look(asked: list[str], versions: dict[str, str], there: dict[str, str] | None = None) -> dict:
    """How this host differs from a lock that wants `versions` of all that it needs, of which it asks for `asked`.

    Returns {"install": {name: version}, "change": {name: [from, to]}, "own": {name: [there, locked]}}. "own" were there
    before Casemate and are nothing that it asks for: they are left as they are, unless a locked package needs another.
    """
    there = installed() if there is None else there
    before = records.packages_before()
    found: dict[str, dict] = {"install": {}, "change": {}, "own": {}}
    for name, version in sorted(versions.items()):
        if name not in there:
            found["install"][name] = version
        elif there[name] != version:
            own = name in before and name not in asked
            found["own" if own else "change"][name] = [there[name], version]
    return found
