"""`casemate-volumes VERB`: the pool's volumes that pods may claim, and their snapshots.

One JSON object on stdout, what it is doing on stderr; exit code 1 and a line of words where it fails.
"""

import argparse
import contextlib
import fcntl
import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from appliance.node.backup.settings import BackupError
from appliance.node.health import btrfs
from appliance.node.health.host import Host

from . import declared, rollback, snapshots
from .declared import POOL, StorageError

_LOCK = Path("/run/casemate/volumes.lock")
_DU_SECONDS = 30


class VolumeError(StorageError):
    """A volume cannot be made as asked for; the message names it and says why."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="casemate-volumes", description=__doc__)
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    one = verbs.add_parser("ensure", help="see to it that these volumes are there, each with its size")
    one.add_argument("volumes", type=json.loads, help='JSON: [{"name": NAME, "size": "10G"}]; size may be left out')
    one.add_argument("--check", action="store_true", help="only say what would be new")
    verbs.add_parser("list", help="the volumes with their sizes, users and snapshots")
    one = verbs.add_parser("snapshot", help="make a snapshot of a volume, which stays until it is dropped")
    one.add_argument("volume")
    one = verbs.add_parser("rollback", help="put a volume back to a snapshot; its pods are stopped meanwhile")
    one.add_argument("volume")
    one.add_argument("--to", default="", metavar="TIME", help="which one (default: the last)")
    one.add_argument("--dry-run", action="store_true", help="only say what would be done")
    one = verbs.add_parser("drop", help="remove a snapshot")
    one.add_argument("volume")
    one.add_argument("snapshot", metavar="TIME")
    verbs.add_parser("due", help="make the snapshots that are due, and remove those that are not to be kept")
    return top


def main(arguments: list[str] | None = None) -> int:
    """Run one verb; the exit code: 0 done, 1 failed, 2 bad usage."""
    asked = parser().parse_args(arguments)
    do = {"ensure": _ensure, "list": _list, "snapshot": _snapshot, "rollback": _rollback, "drop": _drop,
          "due": _due}[asked.verb]  # fmt: skip
    try:
        print(json.dumps(do(asked)))
    except (BackupError, StorageError, OSError) as error:
        print(f"casemate-volumes: {error}", file=sys.stderr)
        return 1
    return 0


def _ensure(asked: argparse.Namespace) -> dict:
    """{"changed": bool, "new": [name], "sized": [name]}."""
    if not asked.check:
        declared.require_pool()
    report = ensure(asked.volumes, asked.check)
    return {"changed": any(report.values()), **report}


def ensure(volumes: list[dict], check: bool = False, pool: Path = POOL) -> dict[str, list[str]]:
    """Make what is missing and limit what is to have another size; no volume is ever removed. Raises VolumeError."""
    on_btrfs = _run("stat", "--file-system", "--format=%T", str(_existing(pool))).strip() == "btrfs"
    report: dict[str, list[str]] = {"new": [], "sized": []}
    for volume in volumes:  # before anything is touched
        _refuse(volume, pool, on_btrfs)
    for volume in volumes:
        path, size = pool / "volumes" / volume["name"], volume.get("size") or ""
        is_new = not path.is_dir()
        if is_new:
            report["new"].append(path.name)
            if not check:
                _make(path, on_btrfs)
        if on_btrfs and (0 if is_new else btrfs.limits(Host(), str(path))[1]) != btrfs.in_bytes(size):
            report["sized"].append(path.name)
            if not check:
                _set_limit(pool, path, btrfs.in_bytes(size))
    return report


def _list(asked: argparse.Namespace) -> dict:
    """{"pool": {"free_percent"}, "volumes": [{"name", "size": bytes or 0, "used": bytes or null, "pods": [name],
    "schedule": word or "", "snapshots": [{"name", "taken": seconds since the epoch, "manual"}]}]}."""
    policies, users = declared.load().snapshots, _users()
    taken = snapshots.everything()
    found = []
    for name in sorted({*snapshots.names(), *taken}):
        path = POOL / "volumes" / name
        used, size = btrfs.limits(Host(), str(path))
        mine = [{"name": one.name, "taken": one.taken.timestamp(), "manual": one.manual} for one in taken.get(name, [])]
        policy = policies.get(name)
        found.append({"name": name, "size": size, "used": used or _du(path), "pods": users.get(name, []),
                      "schedule": policy.get("schedule", "daily") if policy else "", "snapshots": mine})  # fmt: skip
    free = round(snapshots.free_percent(), 1) if POOL.is_dir() else 0.0
    return {"pool": {"free_percent": free}, "volumes": found}


def _snapshot(asked: argparse.Namespace) -> dict:
    """{"volume", "name"}."""
    declared.require_pool()
    with _alone():
        made = snapshots.take(asked.volume, _now(), manual=True)
    return {"volume": made.volume, "name": made.name}


def _rollback(asked: argparse.Namespace) -> dict:
    """What rollback.rollback returns; of a dry run the same without "replaced"."""
    declared.require_pool()
    users = _users().get(asked.volume, [])
    if asked.dry_run:
        return {"volume": asked.volume, "to": snapshots.find(asked.volume, asked.to).name, "users": users}
    with _alone():
        return rollback.rollback(asked.volume, asked.to, users, lambda text: print(text, file=sys.stderr, flush=True))


def _drop(asked: argparse.Namespace) -> dict:
    """{"volume", "name"}."""
    with _alone():
        gone = snapshots.find(asked.volume, asked.snapshot)
        snapshots.drop(gone)
    return {"volume": gone.volume, "name": gone.name}


def _due(asked: argparse.Namespace) -> dict:
    declared.require_pool()
    with _alone():
        told = snapshots.do_what_is_due(declared.load(), _now())
    for one in told["early"]:
        print(f"snapshot {one} is removed early: the pool is nearly full", file=sys.stderr)
    for one in told["refused"]:
        print(f"volume {one} gets no snapshot: the pool is nearly full", file=sys.stderr)
    return told


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """One that changes snapshots at a time; another one waits."""
    _LOCK.parent.mkdir(parents=True, exist_ok=True)
    with _LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _users() -> dict[str, list[str]]:
    """The declared pods that claim each volume."""
    from appliance.node.backup import contents  # its reader of manifests takes a while, and only this needs it

    pods, _, _ = contents.catalog()
    users: dict[str, list[str]] = {}
    for pod in sorted(pods.values(), key=lambda one: one.name):
        for name in contents.claims(pod):
            users.setdefault(name, []).append(pod.name)
    return users


def _now() -> datetime:
    return datetime.now(UTC)


def _du(path: Path) -> int | None:
    """Bytes below a directory, for a pool that counts none; None where that takes too long."""
    asked = Host().run(["du", "-sx", "--block-size=1", str(path)], timeout=_DU_SECONDS)
    return int(asked.out.split()[0]) if asked.code == 0 else None


def _refuse(volume: dict, pool: Path, on_btrfs: bool) -> None:
    path, size = pool / "volumes" / volume["name"], btrfs.in_bytes(volume.get("size") or "")
    if (size or volume.get("snapshots")) and not on_btrfs:
        raise VolumeError(
            f"volume {path.name}: sizes and snapshots need a pool on a device of its own (storage_device), which is "
            f"btrfs; {pool} is a plain directory"
        )
    used = btrfs.limits(Host(), str(path))[0] if size and path.is_dir() else 0
    if used > size:
        raise VolumeError(
            f"volume {path.name}: it holds {used >> 20} MiB and cannot be made {size >> 20} MiB; give it more in "
            f"storage_volumes, or remove files from {path}"
        )


def _existing(path: Path) -> Path:
    return path if path.exists() else _existing(path.parent)


def _make(path: Path, on_btrfs: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if on_btrfs:
        _run("btrfs", "subvolume", "create", str(path))
    else:
        path.mkdir()


def _set_limit(pool: Path, path: Path, size: int) -> None:
    if subprocess.run(["btrfs", "subvolume", "show", str(path)], capture_output=True, check=False).returncode:
        raise VolumeError(
            f"volume {path.name}: {path} is a plain directory, which can have no size; move it away first"
        )
    _run("btrfs", "quota", "enable", str(pool))
    _run("btrfs", "qgroup", "limit", str(size) if size else "none", str(path))


_run = snapshots.run
