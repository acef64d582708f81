"""The pool's volumes for a moment: read-only snapshots where it is btrfs, the volumes themselves elsewhere."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from .settings import BackupError

POOL = Path("/var/lib/casemate/pool")
SNAPSHOTS = ".backup"  # below the pool: while a backup is made
REPLACED = "replaced"  # below the pool: what a restore put away
RESTORING = ".restoring"
_SUBVOLUME = 256
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # linux/fcntl.h, linux/fs.h


def is_btrfs(pool: Path = POOL) -> bool:
    """Whether snapshots can be had."""
    shown = subprocess.run(
        ["stat", "--file-system", "--format=%T", str(pool)], capture_output=True, text=True, check=False
    )
    return shown.stdout.strip() == "btrfs"


@contextlib.contextmanager
def frozen(names: list[str], pool: Path = POOL) -> Iterator[dict[str, Path]]:
    """Where each of the volumes can be read as it is at this moment. Raises BackupError."""
    if not is_btrfs(pool):
        yield {name: pool / "volumes" / name for name in names}
        return
    drop_snapshots(pool)
    place = pool / SNAPSHOTS
    place.mkdir(mode=0o700, exist_ok=True)
    try:
        subvolumes = [name for name in names if _is_subvolume(pool / "volumes" / name)]
        settle(pool)
        for name in subvolumes:
            _freeze(pool / "volumes" / name, place / name)
        yield {name: place / name if (place / name).is_dir() else pool / "volumes" / name for name in names}
    finally:
        drop_snapshots(pool)


def freeze(volume: Path, snapshot: Path) -> None:
    """Take a read-only snapshot that has all that was written before. Raises BackupError."""
    settle(volume)
    _freeze(volume, snapshot)


def settle(pool: Path) -> None:
    """Have all written that was to be written until now, so that snapshots have it. Raises BackupError.

    By itself a snapshot leaves out what was appended to a page that is being written back just then (btrfs flushes
    without waiting, WB_SYNC_NONE): of twenty backups of a pod that appends five lines a second, one lacked the last
    three seconds (tests/e2e/test_backup_postgres.py).
    """
    _run("btrfs", "filesystem", "sync", str(pool))


def drop_snapshots(pool: Path = POOL) -> None:
    """Remove what a backup, or one that was killed, froze."""
    place = pool / SNAPSHOTS
    for snapshot in place.iterdir() if place.is_dir() else ():
        _run("btrfs", "subvolume", "delete", str(snapshot))
    with contextlib.suppress(OSError):
        place.rmdir()


def prepare(name: str, size: int, pool: Path = POOL) -> Path:
    """An empty volume for what is being restored, not yet in its place. Raises BackupError."""
    place = pool / RESTORING / "volumes" / name
    drop(place)
    restoring(pool)
    place.parent.mkdir(exist_ok=True)
    if is_btrfs(pool):
        _run("btrfs", "subvolume", "create", str(place))
        if size:
            _run("btrfs", "quota", "enable", str(pool))
            _run("btrfs", "qgroup", "limit", str(size), str(place))
    else:
        place.mkdir()
    return place


def restoring(pool: Path = POOL) -> Path:
    """Where what comes back is put first; root's alone."""
    place = pool / RESTORING
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    return place


def existing(pool: Path = POOL) -> Path:
    """The pool, or what it will be made in."""
    return next(path for path in (pool, *pool.parents) if path.exists())


def drop_restoring(pool: Path = POOL) -> None:
    """Remove what a restore, or one that was killed, had fetched and not put in place."""
    place = pool / RESTORING
    for made in (place / "volumes").iterdir() if (place / "volumes").is_dir() else ():
        drop(made)
    shutil.rmtree(place, ignore_errors=True)


def exchange(made: Path, name: str, pool: Path = POOL) -> Path | None:
    """Put a volume that `prepare` made into its place; where the one that was there went, None where there was none."""
    target = pool / "volumes" / name
    if target.exists():
        away = replaced(pool) / f"{name}-{time.strftime('%Y%m%dT%H%M%S')}"
        made.rename(away)
        swap(away, target)  # killed before or after it, both are there
        return away
    target.parent.mkdir(exist_ok=True)
    made.rename(target)
    return None


def replaced(pool: Path = POOL) -> Path:
    """Where what was replaced is kept, until an admin removes it."""
    place = pool / REPLACED
    place.mkdir(mode=0o700, exist_ok=True)
    return place


def swap(one: Path, other: Path) -> None:
    """Exchange two directories in one step (renameat2(2), for which Python has no call). Raises BackupError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE):
        raise BackupError(f"cannot exchange {one} and {other}: {os.strerror(ctypes.get_errno())}")


def drop(place: Path) -> None:
    """Remove a volume that is in nobody's use."""
    if _is_subvolume(place):
        _run("btrfs", "subvolume", "delete", str(place))
    else:
        shutil.rmtree(place, ignore_errors=True)


def usage(name: str, pool: Path = POOL) -> tuple[int, int]:
    """Bytes that a volume has, and the most that it may have; 0 where that is not known, or there is no limit."""
    from appliance.node.health import btrfs
    from appliance.node.health.host import Host

    return btrfs.limits(Host(), str(pool / "volumes" / name)) if is_btrfs(pool) else (0, 0)


def size_limit(name: str, pool: Path = POOL) -> int:
    """A volume's quota in bytes, 0 for none."""
    return usage(name, pool)[1]


def _freeze(volume: Path, snapshot: Path) -> None:
    _run("btrfs", "subvolume", "snapshot", "-r", str(volume), str(snapshot))


def _is_subvolume(path: Path) -> bool:
    """A subvolume's root is always inode 256 of its file system."""
    return path.is_dir() and path.stat().st_ino == _SUBVOLUME and is_btrfs(path)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BackupError(f"{' '.join(command)}: {done.stderr.strip()}")
