"""Putting a volume back to one of its snapshots; what it was until then is kept below pool/replaced."""

from __future__ import annotations

import ctypes
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from appliance.node.health import btrfs
from appliance.node.health.host import Host

from . import snapshots
from .declared import POOL, StorageError

REPLACED = "replaced"  # below the pool, where restore puts what it replaces
_READY_SECONDS = 300
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def rollback(volume: str, to: str, users: list[str], report: Callable[[str], None], pool: Path = POOL) -> dict:
    """{"volume", "to", "replaced": path, "users"}. The pods that use it are stopped meanwhile, and waited for.

    The copy of the snapshot is made first, where the volume will then be kept, and the two change places in one step:
    killed before, there is a copy too many; killed after, only the pods are to be started. Raises StorageError.
    """
    snapshot = snapshots.find(volume, to, pool)
    target = pool / "volumes" / volume
    if not target.is_dir():
        raise StorageError(f"the pool has no volume {volume}: declare it in storage_volumes and deploy")
    away = pool / REPLACED / f"{volume}-{time.strftime('%Y%m%dT%H%M%S')}"
    away.parent.mkdir(mode=0o700, exist_ok=True)
    _, limit = btrfs.limits(Host(), str(target))
    snapshots.run("btrfs", "subvolume", "snapshot", str(snapshot.path), str(away))
    if limit:
        snapshots.run("btrfs", "qgroup", "limit", str(limit), str(away))
    if users:
        report(f"stopping {', '.join(users)}")
        _stop(users)
    try:
        report(f"putting volume {volume} back to {snapshot.name}")
        _exchange(away, target)
    finally:
        _start(users, report)
    return {"volume": volume, "to": snapshot.name, "replaced": str(away), "users": users}


def _exchange(one: Path, other: Path) -> None:
    """Have two directories change places, in one step, which Python's os has no call for."""
    rename = ctypes.CDLL(None, use_errno=True).renameat2
    if rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(other))


def _stop(names: list[str]) -> None:
    """Stop pods, and their runners first, which would start them again."""
    from appliance.node.pods import settings, teardown, units
    from appliance.node.pods.cri import Cri
    from appliance.node.pods.translate import managed_labels

    cri = Cri(settings.load().socket)
    for name in names:
        units.stop(name)
        for sandbox in cri.sandboxes(managed_labels(name)):
            teardown.stop_sandbox(cri, sandbox)


def _start(names: list[str], report: Callable[[str], None]) -> None:
    from appliance.node.pods import units

    if not names:
        return
    report(f"starting {', '.join(names)}")
    units.restart(names)
    sync = ["/usr/lib/casemate/bin/casemate-pod", "sync", f"--wait={_READY_SECONDS}"]
    done = subprocess.run(sync, capture_output=True, text=True, check=False)
    if done.returncode:
        raise StorageError(f"not all pods are ready: {done.stderr.strip()[-300:]}")
