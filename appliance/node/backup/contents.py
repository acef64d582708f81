"""What a backup is made of: this host's pods with all that they name, its volumes, its configuration, its edge core.

A backup is a directory in restic's repository:

    manifest.json       what is in it and of which host and release (see `describe`)
    pods/ configmaps/ secrets/   the documents that declare them, as files
    volumes/NAME/       what pods wrote
    images/             the engine's content store, where backup_images wants it (images.py)
    host/ABSOLUTE/PATH  the files that Casemate wrote on the host
    edge/               EdgeCore's identity and database (edge.py)
"""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

from appliance.node.pods import manifest, objects
from appliance.node.release import transaction
from appliance.node.reset import records
from appliance.node.storage import snapshots

from . import edge, images, selection, settings
from .pool import POOL
from .selection import Filter, Selection

VERSION = 1
FOLDERS = {"pods": manifest.MANIFEST_DIRECTORY, "configmaps": objects.ROOT / "configmaps",
           "secrets": objects.ROOT / "secrets"}  # fmt: skip


def catalog(pool: Path = POOL) -> tuple[dict[str, manifest.Pod], list[selection.Pod], list[str]]:
    """The declared pods by name, the same as a filter sees them, and the names of the volumes that there are."""
    declared, _ = manifest.load_directory()
    return declared, [_as_selectable(pod) for pod in declared.values()], snapshots.names(pool)


def claims(pod: manifest.Pod) -> list[str]:
    """The volumes that a pod claims."""
    found = [volume.get("persistentVolumeClaim") for volume in pod.spec.get("volumes") or []]
    return sorted({claim["claimName"] for claim in found if claim})


def describe(configured: settings.Settings, selected: Selection, wanted: Filter, usage: dict[str, tuple],
             consistent: bool) -> dict[str, Any]:  # fmt: skip
    """What manifest.json says.

    {"version", "host", "taken", "release", "lock", "distribution", "everything", "consistent", "pods": [{"name",
    "namespace", "labels", "volumes", "configmaps", "secrets"}], "volumes": [{"name", "size", "used"}], "configmaps",
    "secrets", "images": [{"reference", "digest"}], "with_images": whether their content is in it, "edge": {"node",
    "cloud"} or None}. Sizes are quotas in bytes, 0 for none; `used` is about what a volume has, in bytes, 0 where that
    is not known; `usage` has both by name, as pool.usage gives it; `consistent`: each volume is of one moment.
    """
    declared, pods, _ = catalog()
    known = {pod.name: pod for pod in pods}
    return {
        "version": VERSION,
        "host": configured.host,
        "taken": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "release": transaction.released().get("release", ""),
        "lock": transaction.released().get("lock", ""),
        "distribution": _distribution(),
        "everything": wanted.is_everything,
        "consistent": consistent,
        "pods": [
            {"name": name, "namespace": declared[name].namespace, "labels": dict(known[name].labels),
             "volumes": list(known[name].volumes), "configmaps": list(known[name].configmaps),
             "secrets": list(known[name].secrets)}
            for name in selected.pods
        ],
        "volumes": [
            {"name": name, "size": limit, "used": used}
            for name in selected.volumes
            for used, limit in [usage.get(name, (0, 0))]
        ],
        "configmaps": list(selected.configmaps),
        "secrets": list(selected.secrets),
        "images": images.known(),
        "with_images": configured.images,
        "edge": edge.identity() if selected.host else None,
    }  # fmt: skip


def selectable(described: dict) -> tuple[list[selection.Pod], list[str]]:
    """A backup's pods and volumes as a filter sees them."""
    pods = [
        selection.Pod(one["name"], one["labels"], tuple(one["volumes"]), tuple(one["configmaps"]),
                      tuple(one["secrets"]))
        for one in described["pods"]
    ]  # fmt: skip
    return pods, [one["name"] for one in described["volumes"]]


def write(stage: Path, described: dict, selected: Selection) -> None:
    """Put everything but the volumes into the stage, which is empty."""
    (stage / "manifest.json").write_text(json.dumps(described, indent=1, sort_keys=True) + "\n")
    declared, _ = manifest.load_directory()
    for name in selected.pods:
        _copy(Path(declared[name].source), stage / "pods" / f"{name}.yaml")
    for kind, names in (("configmaps", selected.configmaps), ("secrets", selected.secrets)):
        for name in names:
            for source in FOLDERS[kind].glob(f"{name}.*"):
                _copy(source, stage / kind / source.name)
    if selected.host:
        ours = {settings.PASSWORD, settings.ENVIRONMENT, settings.KEY}  # of no use to who can read the backup
        for path in [*records.files(), *(records.STATE / name for name in transaction.KEPT_BESIDE)]:
            if path in ours:
                continue
            if path.is_dir():
                shutil.copytree(path, stage / "host" / path.relative_to("/"), symlinks=True)
            elif path.exists():
                _copy(path, stage / "host" / path.relative_to("/"))
        edge.save(stage / edge.FOLDER)


def _as_selectable(pod: manifest.Pod) -> selection.Pod:
    named: dict[str, set[str]] = {"ConfigMap": set(), "Secret": set()}
    for kind, name in objects.references(pod.spec):
        named[kind].add(name)
    labels = pod.manifest["metadata"].get("labels") or {}
    return selection.Pod(pod.name, labels, tuple(claims(pod)), tuple(sorted(named["ConfigMap"])),
                         tuple(sorted(named["Secret"])))  # fmt: skip


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, target)


def _distribution() -> str:
    from appliance.node.release import resolve

    return resolve.platform()
