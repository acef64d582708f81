"""`casemate-volumes`: see to it that the pool has the volumes that pods may claim, each with its size."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

POOL = Path("/var/lib/casemate/pool")
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class VolumeError(Exception):
    """A volume cannot be made as asked for; the message names it and says why."""


def main(arguments: list[str] | None = None) -> int:
    """Run it; the exit code: 0 done, 1 failed, 2 bad usage. Prints {"changed": bool, "new": [name], "sized": [name]}"""
    parser = argparse.ArgumentParser(prog="casemate-volumes", description=__doc__)
    parser.add_argument("volumes", type=json.loads, help='JSON: [{"name": NAME, "size": "10G"}]; size may be left out')
    parser.add_argument("--check", action="store_true", help="only say what would be new")
    options = parser.parse_args(arguments)
    try:
        report = ensure(options.volumes, options.check)
    except (VolumeError, OSError) as error:
        print(f"casemate-volumes: {error}", file=sys.stderr)
        return 1
    print(json.dumps({"changed": any(report.values()), **report}))
    return 0


def ensure(volumes: list[dict[str, str]], check: bool = False, pool: Path = POOL) -> dict[str, list[str]]:
    """Make what is missing and limit what is to have another size; no volume is ever removed. Raises VolumeError."""
    on_btrfs = _run("stat", "--file-system", "--format=%T", str(_existing(pool))).strip() == "btrfs"
    report: dict[str, list[str]] = {"new": [], "sized": []}
    for volume in volumes:
        path, size = pool / "volumes" / volume["name"], volume.get("size") or ""
        if size and not on_btrfs:
            raise VolumeError(
                f"volume {path.name}: a size needs a pool on a device of its own (storage_device), which is btrfs; "
                f"{pool} is a plain directory"
            )
        is_new = not path.is_dir()
        if is_new:
            report["new"].append(path.name)
            if not check:
                _make(path, on_btrfs)
        if on_btrfs and (0 if is_new else limit(path)) != in_bytes(size):
            report["sized"].append(path.name)
            if not check:
                _set_limit(pool, path, in_bytes(size))
    return report


def in_bytes(size: str) -> int:
    """A size such as 512M or 10G in bytes; none is 0."""
    return int(size[:-1]) * _UNITS[size[-1]] if size else 0


def _existing(path: Path) -> Path:
    return path if path.exists() else _existing(path.parent)


def _make(path: Path, on_btrfs: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if on_btrfs:
        _run("btrfs", "subvolume", "create", str(path))
    else:
        path.mkdir()


def limit(path: Path) -> int:
    """The most bytes that a subvolume may hold; 0 without a limit, or where the pool counts none."""
    shown = subprocess.run(
        ["btrfs", "qgroup", "show", "-rf", "--raw", str(path)], capture_output=True, text=True, check=False
    )
    # QGROUPID, REFERENCED, EXCLUSIVE, MAX_REFERENCED, in later releases PATH; below two lines of head
    rows = [line.split() for line in shown.stdout.splitlines() if line.startswith("0/")]
    return int(rows[0][3]) if rows and rows[0][3] != "none" else 0


def _set_limit(pool: Path, path: Path, size: int) -> None:
    if subprocess.run(["btrfs", "subvolume", "show", str(path)], capture_output=True, check=False).returncode:
        raise VolumeError(
            f"volume {path.name}: {path} is a plain directory, which can have no size; move it away first"
        )
    _run("btrfs", "quota", "enable", str(pool))
    _run("btrfs", "qgroup", "limit", str(size) if size else "none", str(path))


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise VolumeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout
