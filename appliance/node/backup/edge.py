"""EdgeCore's identity and database in a backup: what a host needs to be the same node of its cloud again."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import subprocess
import time
from pathlib import Path

from appliance.node.edge import settings
from appliance.node.microvm.store import read_json, write_json

from . import pool

FOLDER = "edge"  # in a backup
_KEPT = (settings.CA.parent, settings.CERTIFICATE.parent)


def identity() -> dict | None:
    """Which node of which cloud this host is, {"node", "cloud"}; None where it is none."""
    if not settings.DATABASE.exists():
        return None
    applied = read_json(settings.APPLIED) or {}
    return {"node": applied.get("node", ""), "cloud": applied.get("cloud", "")}


def save(stage: Path) -> None:
    """Copy what there is of EdgeCore's; its database is whole although it is in use. Nothing on a host without."""
    here = identity()
    if here is None:
        return
    stage.mkdir(mode=0o700)
    write_json(stage / "node.json", here)
    for directory in _KEPT:
        if directory.is_dir():
            shutil.copytree(directory, stage / directory.name, symlinks=True)
    if settings.CONFIG.exists():
        shutil.copy2(settings.CONFIG, stage)
    with contextlib.closing(sqlite3.connect(f"file:{settings.DATABASE}?mode=ro", uri=True, timeout=30)) as source, \
            contextlib.closing(sqlite3.connect(stage / settings.DATABASE.name)) as target:  # fmt: skip
        source.backup(target)


def refusal(saved: dict) -> str:
    """Why this host cannot become the node that was saved ({"node", "cloud"}); "" where it can."""
    declared = (read_json(settings.DECLARED) or {}).get("node_name")
    if declared and declared != saved["node"]:
        return (
            f"the backup is of the node {saved['node']}, this host is {declared}: set edge_node_name, and deploy first"
        )
    return ""


def restore(source: Path) -> str:
    """Put identity and database in their place; where those that were there are now, "" for none.

    A host without EdgeCore becomes the same node when it is deployed with edge_provider kubeedge, with no token.
    """
    saved = read_json(source / "node.json") or {"node": "", "cloud": ""}
    runs = subprocess.run(["systemctl", "is-active", "--quiet", settings.UNIT], check=False).returncode == 0
    if runs:
        subprocess.run(["systemctl", "stop", settings.UNIT], check=True)
    try:
        away = _put_away()
        for directory in _KEPT:
            if (source / directory.name).is_dir():
                shutil.copytree(source / directory.name, directory, symlinks=True, dirs_exist_ok=True)
        settings.DATABASE.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = settings.DATABASE.with_suffix(".new")
        shutil.copy2(source / settings.DATABASE.name, new)
        for leftover in settings.DATABASE.parent.glob(f"{settings.DATABASE.name}-*"):
            leftover.unlink()  # what a database that is gone had still to write
        new.replace(settings.DATABASE)
        if not settings.APPLIED.exists():
            # what a deploy asks, to know whose certificates these are
            settings.APPLIED.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_json(settings.APPLIED, {"node": saved["node"], "cloud": saved["cloud"]}, mode=0o600)
    finally:
        if runs:
            subprocess.run(["systemctl", "start", settings.UNIT], check=True)
    return away


def _put_away() -> str:
    there = [path for path in (*_KEPT, settings.DATABASE) if path.exists()]
    if not there:
        return ""
    place = pool.replaced() / f"edge-{time.strftime('%Y%m%dT%H%M%S')}"
    place.mkdir(mode=0o700)
    for path in there:
        (shutil.copytree if path.is_dir() else shutil.copy2)(path, place / path.name)
    return str(place)
