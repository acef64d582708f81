"""Bringing pods and volumes back from a backup: beside what is there, then in its place; what was there is kept."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from appliance.node.pods import manifest

from . import contents, pool, run, selection, settings
from .restic import Restic
from .selection import Filter
from .settings import BackupError

_READY_SECONDS = 300
_HEADER = "# Written by Casemate"  # role pods knows its own by it, and would remove what the inventory does not name


def described(restic: Restic, snapshot: str) -> dict[str, Any]:
    """A backup's manifest.json. Raises BackupError."""
    try:
        found = json.loads(restic.run("dump", snapshot, "/manifest.json"))
    except ValueError:
        raise BackupError(f"backup {snapshot} has no manifest that could be read: is it one of Casemate's?") from None
    if found.get("version") != contents.VERSION:
        raise BackupError(
            f"backup {snapshot} is of version {found.get('version')}, this Casemate reads {contents.VERSION}: restore "
            f"it with release {found.get('release')}"
        )
    return found


def chosen(restic: Restic, snapshot: str) -> str:
    """The id of the backup that is meant: its beginning, or `latest` for the last whole one. Raises BackupError."""
    there = restic.snapshots()
    if snapshot == "latest":
        there = [one for one in there if run.EVERYTHING in one["tags"]] or there
        if not there:
            raise BackupError("there is no backup of this host yet: appliance backup now")
        return there[-1]["id"]
    fitting = [one["id"] for one in there if one["id"].startswith(snapshot)]
    if len(fitting) != 1:
        what = "no backup" if not fitting else "more than one backup"
        raise BackupError(f"{what} of this host begins with {snapshot}: appliance backup list")
    return fitting[0]


def plan(snapshot: str, backup: dict, wanted: Filter, as_name: str = "") -> dict[str, Any]:
    """What a restore would do, and to what: {"snapshot", "taken", "from", "volumes": [{"name", "to", "size",
    "replaces", "used_by"}], "pods": [{"name", "to", "replaces"}], "configmaps", "secrets": [{"name", "replaces"}]}.

    `used_by` are pods of this host that are stopped meanwhile. Raises SelectionError, BackupError.
    """
    pods, volumes = contents.selectable(backup)
    selected = selection.select(pods, volumes, wanted)
    if as_name and (len(selected.pods), len(selected.volumes)) not in ((1, 0), (0, 1), (1, 1)):
        raise BackupError(
            "--as gives one pod, one volume or one pod with its only volume another name; select just that"
        )
    declared, _, there = contents.catalog()
    sizes = {one["name"]: one["size"] for one in backup["volumes"]}

    def volume(name: str) -> dict:
        to = as_name or name
        users = sorted(pod.name for pod in declared.values() if to in contents.claims(pod))
        return {"name": name, "to": to, "size": sizes.get(name, 0), "replaces": to in there, "used_by": users}

    return {
        "snapshot": snapshot[:8],
        "taken": backup["taken"],
        "from": backup["host"],
        "volumes": [volume(name) for name in selected.volumes],
        "pods": [
            {"name": name, "to": as_name or name, "replaces": (as_name or name) in declared} for name in selected.pods
        ],
        **{kind: [{"name": name, "replaces": bool(_documents(kind, name))} for name in getattr(selected, kind)]
           for kind in ("configmaps", "secrets")},
    }  # fmt: skip


def restore(
    restic: Restic, snapshot: str, wanted: Filter, as_name: str, report: Callable[[str], None]
) -> dict[str, Any]:
    """Do what `plan` says, and wait until the restored pods are ready. Returns that with "replaced": what was there.

    Everything is fetched before anything is replaced; each volume is replaced in one step. Raises BackupError.
    """
    with run.alone("a restore"):
        backup = described(restic, snapshot)
        doing = plan(snapshot, backup, wanted, as_name)
        pool.drop_restoring()
        made = {one["name"]: pool.prepare(one["name"], one["size"]) for one in doing["volumes"]}
        documents = settings.STATE / "restored"
        shutil.rmtree(documents, ignore_errors=True)
        try:
            _fetch(restic, snapshot, doing, documents, report)
            return doing | {"replaced": _put_in_place(doing, made, documents, as_name, report)}
        finally:
            shutil.rmtree(documents, ignore_errors=True)
            pool.drop_restoring()


def _fetch(restic: Restic, snapshot: str, doing: dict, documents: Path, report: Callable[[str], None]) -> None:
    """Read it all from the repository; restic compares each piece with its checksum."""
    documents.mkdir(mode=0o700, parents=True)
    report("fetching the documents")
    restic.run("restore", snapshot, "--target", str(documents), "--include", "/pods", "--include", "/configmaps",
               "--include", "/secrets")  # fmt: skip
    for one in doing["volumes"]:
        report(f"fetching volume {one['name']}")
        restic.run(
            "restore", snapshot, "--target", str(pool.POOL / pool.RESTORING), "--include", f"/volumes/{one['name']}"
        )


def _put_in_place(doing: dict, made: dict[str, Path], documents: Path, as_name: str,
                  report: Callable[[str], None]) -> list[str]:  # fmt: skip
    """Stop who uses it, exchange, write the documents, start; where what was there is now."""
    replaced = []
    stopped = sorted({user for one in doing["volumes"] for user in one["used_by"]}
                     | {one["to"] for one in doing["pods"] if one["replaces"]})  # fmt: skip
    if stopped:
        report(f"stopping {', '.join(stopped)}")
        _stop(stopped)
    try:
        for one in doing["volumes"]:
            report(f"putting volume {one['to']} in its place")
            if away := pool.exchange(made[one["name"]], one["to"]):
                replaced.append(str(away))
        for kind in ("configmaps", "secrets", "pods"):
            for one in doing[kind]:
                to = one.get("to", one["name"])
                away = _write_document(kind, one["name"], to, documents, bool(as_name), doing)
                replaced += [away] if away else []
    finally:
        report("starting pods")
        trouble = _start([one["to"] for one in doing["pods"]], stopped)
    if trouble:
        raise BackupError(
            f"restored, but {trouble}; what was there before is in {', '.join(replaced) or '(nothing was)'}"
        )
    return replaced


def _write_document(kind: str, name: str, to: str, documents: Path, renamed: bool, doing: dict) -> str:
    """Put a document where its kind is declared; where the one that was there is now, "" for none."""
    import yaml

    (source,) = (documents / kind).glob(f"{name}.*")
    directory = contents.FOLDERS[kind]
    text = source.read_text("utf-8")
    if renamed and kind == "pods":
        document = yaml.safe_load(text)
        document["metadata"]["name"] = to
        for volume in document["spec"].get("volumes") or []:
            if claim := volume.get("persistentVolumeClaim"):
                claim["claimName"] = next((one["to"] for one in doing["volumes"] if one["name"] == claim["claimName"]),
                                          claim["claimName"])  # fmt: skip
        text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
    away = ""
    for there in _documents(kind, to):
        if there.read_text("utf-8") == text:
            return ""
        place = pool.POOL / pool.REPLACED / f"{kind}-{there.name}-{time.strftime('%Y%m%dT%H%M%S')}"
        place.parent.mkdir(mode=0o700, exist_ok=True)
        shutil.copy2(there, place)
        away = str(place)
        if there.name != f"{to}.yaml":
            there.unlink()
    if not _documents(kind, to):  # nobody's on this host yet: the inventory's next deploy is not to take it away
        text = "".join(line for line in text.splitlines(keepends=True) if not line.startswith(_HEADER))
    directory.mkdir(mode=0o700 if kind == "secrets" else 0o755, parents=True, exist_ok=True)
    new = directory / f".{to}.new"
    new.touch(mode=0o600)
    new.write_text(text, "utf-8")
    new.replace(directory / f"{to}.yaml")
    return away


def _documents(kind: str, name: str) -> list[Path]:
    """The files of this host that declare an object of this name."""
    return [path for path in contents.FOLDERS[kind].glob(f"{name}.*") if path.suffix in manifest.SUFFIXES]


def _stop(names: list[str]) -> None:
    """Stop pods, and their runners first, which would start them again."""
    from appliance.node.pods import settings as pod_settings
    from appliance.node.pods import teardown, units
    from appliance.node.pods.cri import Cri
    from appliance.node.pods.translate import managed_labels

    cri = Cri(pod_settings.load().socket)
    for name in names:
        units.stop(name)
        for sandbox in cri.sandboxes(managed_labels(name)):
            teardown.stop_sandbox(cri, sandbox)


def _start(restored: list[str], stopped: list[str]) -> str:
    """Start what was stopped and what came; why a restored pod is not ready, "" where all are."""
    from appliance.node.pods import units

    units.restart(stopped)
    if not restored and not stopped:
        return ""
    sync = ["/usr/lib/casemate/bin/casemate-pod", "sync", f"--wait={_READY_SECONDS}"]
    done = subprocess.run(sync, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else f"not all pods are ready: {done.stderr.strip()[-300:]}"
