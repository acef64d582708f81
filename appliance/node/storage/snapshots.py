"""Snapshots of volumes, read-only, at pool/snapshots/VOLUME/TIME; those that a person asked for end in -manual."""

from __future__ import annotations

import json
import os
import subprocess
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from appliance.node.backup.pool import freeze

from . import keep
from .declared import POOL, Declared, StorageError

DIRECTORY = "snapshots"  # below the pool
STATUS = Path("/var/lib/casemate/snapshots.json")  # what the last run of the timer did
_TIME, _MANUAL = "%Y%m%dT%H%M%SZ", "-manual"
_SUBVOLUME = 256  # the inode of a subvolume's root


@dataclass(frozen=True)
class Snapshot:
    """One snapshot: `name` is TIME, with -manual where a person asked for it."""

    volume: str
    name: str
    path: Path

    @property
    def manual(self) -> bool:
        return self.name.endswith(_MANUAL)

    @property
    def taken(self) -> datetime:
        return datetime.strptime(self.name.removesuffix(_MANUAL), _TIME).replace(tzinfo=UTC)


def of(volume: str, pool: Path = POOL) -> list[Snapshot]:
    """A volume's snapshots, oldest first. What has no name of ours is nobody's business."""
    found = []
    directory = pool / DIRECTORY / volume
    for path in directory.iterdir() if directory.is_dir() else ():
        one = Snapshot(volume, path.name, path)
        try:
            one.taken  # noqa: B018 - raises where the name is no time
        except ValueError:
            continue
        found.append(one)
    return sorted(found, key=lambda one: one.taken)


def everything(pool: Path = POOL) -> dict[str, list[Snapshot]]:
    """All snapshots, by volume; also of volumes that are gone."""
    top = pool / DIRECTORY
    return {path.name: of(path.name, pool) for path in sorted(top.iterdir())} if top.is_dir() else {}


def take(volume: str, now: datetime, *, manual: bool, pool: Path = POOL) -> Snapshot:
    """Make one of a volume as it is. Raises StorageError, BackupError."""
    source = pool / "volumes" / volume
    if not source.is_dir():
        raise StorageError(f"the pool has no volume {volume}; there are: {', '.join(names(pool)) or 'none'}")
    if source.stat().st_ino != _SUBVOLUME:
        raise StorageError(f"volume {volume} is a plain directory: snapshots need a pool on a device of its own")
    name = now.strftime(_TIME) + (_MANUAL if manual else "")
    target = pool / DIRECTORY / volume / name
    for directory in (target.parent.parent, target.parent):
        directory.mkdir(mode=0o700, exist_ok=True)
    if not target.exists():  # of this second
        freeze(source, target)
    return Snapshot(volume, name, target)


def find(volume: str, name: str, pool: Path = POOL) -> Snapshot:
    """The snapshot of this name, or the last one where it is "". Raises StorageError."""
    there = of(volume, pool)
    fitting = [one for one in there if one.name == name or not name]
    if not fitting:
        words = ", ".join(one.name for one in there) or "none"
        raise StorageError(f"volume {volume} has no snapshot {name or 'at all'}; there are: {words}")
    return fitting[-1]


def drop(snapshot: Snapshot) -> None:
    """Remove a snapshot. Raises StorageError."""
    run("btrfs", "subvolume", "delete", str(snapshot.path))


def names(pool: Path = POOL) -> list[str]:
    """The pool's volumes."""
    directory = pool / "volumes"
    found = directory.iterdir() if directory.is_dir() else ()
    return sorted(path.name for path in found if path.is_dir() and not path.name.startswith("."))


def do_what_is_due(declared: Declared, now: datetime, pool: Path = POOL) -> dict:
    """{"made", "dropped", "early", "refused"}: each a list of VOLUME/NAME, `early` being those that a policy would have
    kept and the pool had no room for, `refused` volumes that get none for that reason. Remembered in STATUS."""
    told: dict[str, list[str]] = {"made": [], "dropped": [], "early": [], "refused": []}
    there = names(pool)
    for volume, policy in sorted(declared.snapshots.items()):
        mine = [one for one in of(volume, pool) if not one.manual]
        if volume in there and keep.is_due([one.taken for one in mine], policy.get("schedule", "daily"), now):
            _make_room(declared.spare, told["early"], pool)
            if free_percent(pool) < declared.spare:
                told["refused"].append(volume)
            else:
                mine.append(take(volume, now, manual=False, pool=pool))
                told["made"].append(f"{volume}/{mine[-1].name}")
        stay = keep.kept([one.taken for one in mine], policy["keep"])
        for one in mine:
            if one.taken not in stay and one.path.exists():
                drop(one)
                told["dropped"].append(f"{volume}/{one.name}")
    _make_room(declared.spare, told["early"], pool)
    _remember({"at": time.time(), **told})
    return told


def free_percent(pool: Path = POOL) -> float:
    """How much of the pool is free."""
    found = os.statvfs(pool)
    return 100 * found.f_bavail / found.f_blocks


def run(*command: str) -> str:
    """What a program prints. Raises StorageError with its own words where it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise StorageError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def _make_room(spare: float, early: list[str], pool: Path) -> None:
    """Remove scheduled snapshots, the oldest first, until enough is free; those that a person asked for stay."""
    scheduled = [one for found in everything(pool).values() for one in found if not one.manual]
    for one in sorted(scheduled, key=lambda one: one.taken):
        if free_percent(pool) >= spare:
            return
        drop(one)
        run("btrfs", "subvolume", "sync", str(pool))  # the room comes a while after
        early.append(f"{one.volume}/{one.name}")


def _remember(told: dict) -> None:
    STATUS.parent.mkdir(parents=True, exist_ok=True)
    new = STATUS.with_suffix(".new")
    new.write_text(json.dumps(told) + "\n")
    new.replace(STATUS)
