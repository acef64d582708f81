"""Putting a volume back to one of its snapshots; what it was until then is kept below pool/replaced."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from appliance.node.backup import guard, run
from appliance.node.backup import pool as backup_pool
from appliance.node.health import btrfs
from appliance.node.health.host import Host

from . import snapshots
from .declared import POOL, StorageError


def rollback(volume: str, to: str, users: list[str], report: Callable[[str], None], pool: Path = POOL) -> dict:
    """{"volume", "to", "replaced": path, "users"}. The pods that use it are stopped meanwhile, and waited for.

    The copy of the snapshot is made first, where the volume will then be kept, and the two change places in one step:
    killed before, there is a copy too many. Pods that were stopped start again however it ends. Raises StorageError,
    BackupError.
    """
    with run.alone("a rollback"):
        return _rollback(volume, to, users, report, pool)


def _rollback(volume: str, to: str, users: list[str], report: Callable[[str], None], pool: Path) -> dict:
    snapshot = snapshots.find(volume, to, pool)
    target = pool / "volumes" / volume
    if not target.is_dir():
        raise StorageError(f"the pool has no volume {volume}: declare it in storage_volumes and deploy")
    away = backup_pool.replaced(pool) / f"{volume}-{time.strftime('%Y%m%dT%H%M%S')}"
    _, limit = btrfs.limits(Host(), str(target))
    snapshots.run("btrfs", "subvolume", "snapshot", str(snapshot.path), str(away))
    if limit:
        snapshots.run("btrfs", "qgroup", "limit", str(limit), str(away))
    with guard.stopped(users, report):
        report(f"putting volume {volume} back to {snapshot.name}")
        backup_pool.swap(away, target)
    if users and (trouble := guard.ready()):
        raise StorageError(trouble)
    return {"volume": volume, "to": snapshot.name, "replaced": str(away), "users": users}
