"""What role storage declares in /etc/casemate/storage.json."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from pathlib import Path

DECLARED = Path("/etc/casemate/storage.json")
POOL = Path("/var/lib/casemate/pool")
LINK = Path("/run/casemate/storage-device")  # to one of the pool's devices; what the mount unit mounts
MOUNT_UNIT = "var-lib-casemate-pool.mount"


class StorageError(Exception):
    """Something that an admin can cure; the text names cause, place and cure."""


@dataclass(frozen=True)
class Declared:
    """devices: of the pool; uuid: of its file system; erase: whether anything on a new device may go; snapshots:
    {volume: {"schedule", "keep": {period: count}}}; spare: percent of the pool that snapshots leave free."""

    devices: list[str] = field(default_factory=list)
    uuid: str = ""
    erase: bool = False
    snapshots: dict[str, dict] = field(default_factory=dict)
    spare: int = 10


def load(path: Path = DECLARED) -> Declared:
    """What is declared; nothing on a host whose pool is a directory."""
    try:
        given = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return Declared()
    return Declared(**{one.name: given[one.name] for one in fields(Declared) if one.name in given})


def require_pool(pool: Path = POOL) -> None:
    """Raise StorageError where a device is declared and not mounted: nothing is to be written below its mount point."""
    known = load()
    if known.devices and not pool.is_mount():
        raise StorageError(
            f"the pool {known.uuid} is not mounted at {pool}: its devices {', '.join(known.devices)} are missing or "
            f"damaged; systemctl status {MOUNT_UNIT}"
        )
