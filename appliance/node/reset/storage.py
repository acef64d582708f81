"""The pool: unmounted; its data stays on its devices (or in its directory) unless it is to be wiped."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

from appliance.node.reset import records
from appliance.node.reset.records import POOL
from appliance.node.reset.remover import Remover, run

UNIT = "var-lib-casemate-pool.mount"
TIMERS = ("casemate-scrub.timer", "casemate-snapshots.timer", "casemate-scrub.service", "casemate-storage.service")
LABEL = "casemate-pool"  # as role storage formats it


def reset(remover: Remover, options: dict) -> None:
    """Unmount the pool; with options["wipe"], erase it."""
    unit = Path("/etc/systemd/system", UNIT)
    if unit.exists():
        _devices(remover, _source(unit), wipe=options.get("wipe", False))
    elif POOL.is_dir():
        _directory(remover, wipe=options.get("wipe", False))


def _devices(remover: Remover, source: str, *, wipe: bool) -> None:
    for unit in (*TIMERS, UNIT):
        remover.unit(unit)
    for device in _of(source):
        # a device of that name may by now be another one
        ours = run("blkid", "-p", "-s", "LABEL", "-o", "value", device, check=False).strip() == LABEL
        if not ours:
            remover.kept.append(f"{device}: it carries no pool of Casemate's")
        elif wipe:
            remover.do(f"the pool on {device}, with all data on it", partial(run, "wipefs", "--all", device))
        else:
            remover.kept.append(f"the pool's data on {device} (a deploy takes it up again; --wipe-storage erases it)")


def _of(source: str) -> list[str]:
    """The devices of the pool that is declared; on hosts of old, the one that the mount unit names."""
    declared = records.CONFIG / "storage.json"
    if not declared.exists():
        return [source]
    uuid = json.loads(declared.read_text())["uuid"]
    return run("blkid", "-c", "/dev/null", "-o", "device", "-t", f"UUID={uuid}", check=False).split()


def _directory(remover: Remover, *, wipe: bool) -> None:
    if wipe or not any(entry for entry in POOL.rglob("*") if not entry.is_dir()):
        remover.tree(POOL)
    else:
        remover.kept.append(f"the pool's data in {POOL} (a deploy takes it up again; --wipe-storage erases it)")


def _source(unit: Path) -> str:
    return next(line[5:] for line in unit.read_text().splitlines() if line.startswith("What="))
