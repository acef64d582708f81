"""Bringing pods and volumes back from a backup: beside what is there, then in its place; what was there is kept."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from appliance.node.edge import settings as edge_settings
from appliance.node.pods import manifest
from appliance.node.storage import declared as storage

from . import arrived, contents, edge, guard, images, pool, run, selection, settings
from .restic import Restic
from .selection import Filter
from .settings import BackupError

_TELL_SECONDS = 2
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
    """What a restore would do, and to what.

    {"snapshot", "taken", "from", "volumes": [{"name", "to", "size", "replaces", "used_by"}], "pods": [{"name", "to",
    "replaces"}], "configmaps", "secrets": [{"name", "replaces"}], "edge": {"node", "cloud", "refused"} or None,
    "images": [{"reference", "digest"}] that this host lacks, "with_images": whether the backup has them}. `used_by` are
    pods of this host that are stopped meanwhile; `size` is what this host gives the volume, its own limit where it has
    one. Raises SelectionError, BackupError.
    """
    pods, volumes = contents.selectable(backup)
    selected = selection.select(pods, volumes, wanted)
    if as_name and (len(selected.pods), len(selected.volumes)) not in ((1, 0), (0, 1), (1, 1)):
        raise BackupError(
            "--as gives one pod, one volume or one pod with its only volume another name; select just that"
        )
    declared, _, there = contents.catalog()
    sizes = {one["name"]: one["size"] for one in backup["volumes"]}
    node = backup.get("edge") if selected.host else None
    here = {(one["reference"], one["digest"]) for one in images.known()}

    def volume(name: str) -> dict:
        to = as_name or name
        users = sorted(pod.name for pod in declared.values() if to in contents.claims(pod))
        size = pool.size_limit(to) if to in there else sizes.get(name, 0) * pool.is_btrfs()
        return {"name": name, "to": to, "size": size, "replaces": to in there, "used_by": users}

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
        "edge": node and node | {"refused": edge.refusal(node)},
        "images": [one for one in backup["images"] if (one["reference"], one["digest"]) not in here],
        "with_images": backup.get("with_images", False),
    }  # fmt: skip


def restore(
    restic: Restic, snapshot: str, wanted: Filter, as_name: str, report: Callable[[str], None]
) -> dict[str, Any]:
    """Do what `plan` says, and wait until the restored pods are ready.

    Returns that with "replaced", where what was there is now, and "files", "bytes", how many were compared with what
    the backup says of them. Everything is fetched before anything is replaced; each volume is replaced in one step;
    pods that were stopped start again however this ends. Raises BackupError.
    """
    with run.alone("a restore"):
        storage.require_pool()
        guard.start_stopped(report)  # of a run that was killed, and its guard as well
        backup = described(restic, snapshot)
        doing = plan(snapshot, backup, wanted, as_name)
        pool.drop_restoring()
        listing = settings.STATE / "restoring.jsonl"
        try:
            made: dict[str, Path] = {}
            fetched = pool.restoring()

            def listed() -> dict[str, int]:
                sums = arrived.list_volumes(restic, snapshot, [one["name"] for one in doing["volumes"]], listing)
                _refuse_if_too_big(doing, sums)
                return sums

            def fetch(size: int) -> None:
                made.update({one["name"]: pool.prepare(one["name"], one["size"]) for one in doing["volumes"]})
                _fetch(restic, snapshot, doing, fetched, size, report)

            about = {one["name"]: one.get("used", 0) for one in backup["volumes"]}
            sums = _both(restic, listed, fetch, sum(about[one["name"]] for one in doing["volumes"]))
            report("comparing")
            files = arrived.compare(listing, fetched)
            if doing["images"] and doing["with_images"]:
                report("importing images")
                images.bring_back(fetched / images.FOLDER, doing["images"])
            replaced = _put_in_place(doing, made, fetched, as_name, report)
            return doing | {"replaced": replaced, "files": files, "bytes": sum(sums.values())}
        finally:
            listing.unlink(missing_ok=True)
            pool.drop_restoring()


def _both(restic: Restic, listed: Callable[[], dict[str, int]], fetch: Callable[[int], None], about: int) -> dict:
    """What `listed` returns, and `fetch` done: at the same time where there is room for twice what it is about.

    Each call of restic takes a second to begin with. Elsewhere nothing may be fetched that could fill the pool, which
    the pods write to meanwhile, before the list says exactly how much it is.
    """
    with concurrent.futures.ThreadPoolExecutor(1) as beside:
        if not 0 < 2 * about < shutil.disk_usage(pool.existing()).free:
            sums = listed()
            fetch(sum(sums.values()))
            return sums
        fetching = beside.submit(fetch, about)
        try:
            sums = listed()
        except BaseException:
            restic.stop()
            raise
        fetching.result()
        return sums


def _refuse_if_too_big(doing: dict, sums: dict[str, int]) -> None:
    """Before anything is fetched: does each volume fit its limit, and all of it the pool?"""
    for one in doing["volumes"]:
        if one["size"] and sums[one["name"]] > one["size"]:
            raise BackupError(
                f"volume {one['name']} has {sums[one['name']] >> 20} MiB in the backup, and may have "
                f"{one['size'] >> 20} MiB here: raise its size in storage_volumes, then appliance deploy"
            )
    free = shutil.disk_usage(pool.existing()).free
    if (needed := sum(sums.values())) > free:
        raise BackupError(
            f"the volumes have {needed >> 20} MiB in the backup, the pool has {free >> 20} MiB left, and what is "
            f"replaced is kept: remove what is not needed from {pool.POOL / pool.REPLACED}, or enlarge the pool"
        )


def _fetch(restic: Restic, snapshot: str, doing: dict, target: Path, size: int, report: Callable[[str], None]) -> None:
    """Read it all from the repository; restic compares each piece with its checksum."""
    folders = [images.FOLDER] if doing["images"] and doing["with_images"] else []
    folders += [*(f"volumes/{one['name']}" for one in doing["volumes"]), *contents.FOLDERS, edge.FOLDER]
    words = [word for folder in folders for word in ("--include", f"/{folder}")]
    with _told(restic, size, report):
        restic.run("restore", snapshot, "--target", str(target), *words)


@contextlib.contextmanager
def _told(restic: Restic, size: int, report: Callable[[str], None]) -> Iterator[None]:
    """Tell how far the fetching is, which restic's restore did not before 0.16: by what it has written."""
    over = threading.Event()

    def tell() -> None:
        while not over.wait(_TELL_SECONDS):
            done = min(size, restic.written())
            report(f"fetching: about {done >> 20} of {size >> 20} MiB")

    report(f"fetching {size >> 20} MiB")
    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _put_in_place(doing: dict, made: dict[str, Path], documents: Path, as_name: str,
                  report: Callable[[str], None]) -> list[str]:  # fmt: skip
    """Stop who uses it, exchange, write the documents, start; where what was there is now."""
    replaced = []
    stopped = sorted({user for one in doing["volumes"] for user in one["used_by"]}
                     | {one["to"] for one in doing["pods"] if one["replaces"]})  # fmt: skip
    # a pod from a file that EdgeCore runs cannot claim a volume, and EdgeCore sees for itself that its file changed
    with guard.stopped([] if edge_settings.RUNS_PODS.exists() else stopped, report):
        for one in doing["volumes"]:
            report(f"putting volume {one['to']} in its place")
            if away := pool.exchange(made[one["name"]], one["to"]):
                replaced.append(str(away))
        for kind in ("configmaps", "secrets", "pods"):
            for one in doing[kind]:
                to = one.get("to", one["name"])
                away = _write_document(kind, one["name"], to, documents, bool(as_name), doing)
                replaced += [away] if away else []
        if doing["edge"] and not doing["edge"]["refused"]:
            report("putting the edge core's identity and database in their place")
            away = edge.restore(documents / edge.FOLDER)
            replaced += [away] if away else []
    if (doing["pods"] or stopped) and (trouble := guard.ready()):
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
        place = pool.replaced() / f"{kind}-{there.name}-{time.strftime('%Y%m%dT%H%M%S')}"
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
