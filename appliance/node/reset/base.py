"""Files, packages and programs: the last part, for the others go by them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from appliance.node.reset import packages, records
from appliance.node.reset.remover import Remover, remove_if_empty, run

OURS = "# Written by Casemate"


def reset(remover: Remover, options: dict) -> None:
    """Put files back or remove them, purge packages, then remove the programs and the records themselves."""
    written = records.files()
    for path in written:
        put_back(remover, path)
    if not remover.check:
        # from here on the files are the admin's: a run that is cut off below must not take them for ours
        (records.STATE / "files").unlink(missing_ok=True)
        run("systemctl", "daemon-reload")
    packages.purge(remover)
    if not remover.check:
        _follow(written)
        for path in written:
            for parent in path.parents:
                remove_if_empty(parent)
    for manifest in _foreign_manifests(written):
        remover.do(f"{manifest} (not written by Casemate)", manifest.unlink)
    for path in (*records.PROGRAMS, records.CONFIG):
        remover.tree(path)
    _records(remover)


def put_back(remover: Remover, path: Path) -> None:
    """Put a file that Casemate wrote back as it was before, or remove it where there was none."""
    original = records.ORIGINALS / path.relative_to("/")
    if original.exists():
        remover.do(f"{path} (as it was before)", lambda: _restore(original, path))
    elif path.exists() and records.CONFIG not in path.parents:
        remover.tree(path)


def _restore(original: Path, path: Path) -> None:
    status = original.stat()
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.casemate")
    shutil.copy2(original, new)
    os.chown(new, status.st_uid, status.st_gid)
    new.replace(path)


def _follow(written: list[Path]) -> None:
    """Services that stay read the files that were put back."""
    stems = {part for path in written for part in path.parts}
    for name in ("containerd", "prometheus", "prometheus-node-exporter"):
        if name in stems:
            run("systemctl", "try-restart", f"{name}.service", check=False)


def _foreign_manifests(written: list[Path]) -> list[Path]:
    return [path for path in sorted((records.CONFIG / "pods").glob("*")) if path not in written]


def _records(remover: Remover) -> None:
    """Our state, the records last; the pool is another part's decision, and the run's lock is still held."""
    last = {"files", "originals", "packages-before", "packages-installed"}
    entries = sorted(records.STATE.iterdir(), key=lambda e: e.name in last) if records.STATE.is_dir() else []
    for entry in entries:
        if entry != records.POOL:
            remover.tree(entry)
        elif not remover.check:
            remove_if_empty(entry)
    for entry in sorted(records.RUN.iterdir()) if records.RUN.is_dir() else []:
        if entry.name != "run.lock":
            remover.tree(entry)
    if not remover.check:
        remove_if_empty(records.STATE)
