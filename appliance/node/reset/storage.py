"""The pool: unmounted; its data stays on its device (or in its directory) unless it is to be wiped."""

from __future__ import annotations

from pathlib import Path

from appliance.node.reset.records import POOL
from appliance.node.reset.remover import Remover, run

UNIT = "var-lib-casemate-pool.mount"
LABEL = "casemate-pool"  # as role storage formats it


def reset(remover: Remover, options: dict) -> None:
    """Unmount the pool; with options["wipe"], erase it."""
    unit = Path("/etc/systemd/system", UNIT)
    if unit.exists():
        _device(remover, _source(unit), wipe=options.get("wipe", False))
    elif POOL.is_dir():
        _directory(remover, wipe=options.get("wipe", False))


def _device(remover: Remover, device: str, *, wipe: bool) -> None:
    remover.unit(UNIT)
    # a device of that name may by now be another one
    ours = run("blkid", "-p", "-s", "LABEL", "-o", "value", device, check=False).strip() == LABEL
    if not ours:
        remover.kept.append(f"{device}: it carries no pool of Casemate's")
    elif wipe:
        remover.do(f"the pool on {device}, with all data on it", lambda: run("wipefs", "--all", device))
    else:
        remover.kept.append(f"the pool's data on {device} (a deploy takes it up again; --wipe-storage erases it)")


def _directory(remover: Remover, *, wipe: bool) -> None:
    if wipe or not any(entry for entry in POOL.rglob("*") if not entry.is_dir()):
        remover.tree(POOL)
    else:
        remover.kept.append(f"the pool's data in {POOL} (a deploy takes it up again; --wipe-storage erases it)")


def _source(unit: Path) -> str:
    return next(line[5:] for line in unit.read_text().splitlines() if line.startswith("What="))
