"""What a host would give away, and what is in the way of it on another; neither changes anything."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path
from typing import Any

from appliance.node.backup import contents, pool, selection
from appliance.node.backup.selection import Filter
from appliance.node.edge import settings as edge
from appliance.node.pods import manifest, objects, settings
from appliance.node.pods.manifest import Pod
from appliance.node.release import transaction

from . import papers
from . import pods as here

_SPARE_BYTES = 64 << 20  # what the target's pool is to have left
_SUBVOLUME = 256


def offer(wanted: Filter) -> dict[str, Any]:
    """What a filter means here.

    {"snapshots": whether volumes can be sent while pods run, "pods": [{"name", "handler", "manifest"}], "volumes":
    [{"name", "bytes" in use, "size", its quota}], "documents": [{"kind", "name", "sha256"}], "images": [{"reference",
    "id"}], "notes": what does not move, "problems": why this cannot move}. Raises SelectionError, CriError.
    """
    declared, pods, there = contents.catalog()
    selected = selection.select(pods, there, wanted)
    chosen = [declared[name] for name in selected.pods]
    claimed = {name: pod.name for pod in chosen for name in contents.claims(pod)}
    volumes = sorted(set(claimed) & set(there))
    return {
        "snapshots": pool.is_btrfs() and all(_place(name).stat().st_ino == _SUBVOLUME for name in volumes),
        "pods": [{"name": pod.name, "handler": pod.handler, "manifest": pod.manifest} for pod in chosen],
        "volumes": [{"name": name, "bytes": used(_place(name)), "size": pool.size_limit(name)} for name in volumes],
        "documents": [
            {"kind": kind, "name": name, "sha256": _sum(path)}
            for kind in papers.KINDS for name in getattr(selected, kind) if (path := papers.find(kind, name))
        ],
        "images": _images(chosen),
        "notes": [note for pod in chosen for note in _stays(pod)],
        "problems": _problems(declared, chosen, claimed, there),
    }  # fmt: skip


def objects_of(pod: Pod) -> set[tuple[str, str]]:
    """The ConfigMaps and Secrets that a pod names, as kind (see papers.KINDS) and name."""
    return {(objects.FOLDERS[kind], name) for kind, name in objects.references(pod.spec)}


def used(place: Path) -> int:
    """The bytes that a volume takes."""
    told = subprocess.run(["du", "-sxB1", str(place)], capture_output=True, text=True, check=False)
    return int((told.stdout.split() or ["0"])[0])  # a file that went away meanwhile is no reason to know nothing


def check(offered: dict[str, Any], ignored: list[dict[str, Any]]) -> dict[str, Any]:
    """What is in the way here of what another host offers: {"snapshots", "free", "images": the references that are
    missing, "documents": [[kind, name]] to be brought, "notes", "problems"}.

    `ignored` are arrivals of before (see records.py) that will be put away first.
    """
    values = settings.load()
    names = {kind: {name for one in ignored for name in one.get(kind, [])} for kind in ("pods", "volumes")}
    paths = {path for one in ignored for path in one.get("documents", [])}
    declared, _, there = contents.catalog()
    others = {name: pod for name, pod in declared.items() if name not in names["pods"]}
    problems, notes = _host_problems(), []
    handlers = here.handlers()
    for one in offered["pods"]:
        name, handler = one["name"], one["manifest"]["spec"].get("runtimeClassName") or values.default_handler
        problems += [f"pod {name}: {problem}" for problem in manifest.check(one["manifest"], values.default_handler)]
        if name in others:
            problems.append(f"pod {name} is declared there already, in {others[name].source}")
        if handler not in handlers:
            problems.append(f"pod {name} needs the runtime {handler}; there are {', '.join(handlers)}")
        if handler != one["handler"]:
            notes.append(f"pod {name} will run as {handler}, the default there, not as {one['handler']}")
    problems += _ports([one["manifest"] for one in offered["pods"]], others, bool(ignored))
    for one in offered["volumes"]:
        problems += _volume_problems(one["name"], others, set(there) - names["volumes"])
        if one["size"] and not pool.is_btrfs():
            notes.append(f"volume {one['name']} loses its size: the pool there is a plain directory, which has none")
    bring = []
    for one in offered["documents"]:
        path = papers.find(one["kind"], one["name"])
        if path is None or str(path) in paths:
            bring.append([one["kind"], one["name"]])
        elif one["kind"] != "pods" and _sum(path) != one["sha256"]:
            problems.append(f"{path} is there already, and says something else")
    missing, differing = _compare_images(offered["images"], others)
    problems += differing
    needed = sum(one["bytes"] for one in offered["volumes"])
    free = shutil.disk_usage(pool.POOL).free if pool.POOL.is_dir() else 0
    if needed and free < needed + _SPARE_BYTES:
        problems.append(f"{pool.POOL} has {free >> 20} MiB left there, and {needed >> 20} MiB are to come")
    return {"snapshots": pool.is_btrfs(), "free": free, "images": missing, "documents": bring, "notes": notes,
            "problems": problems}  # fmt: skip


def _place(name: str) -> Path:
    return pool.POOL / "volumes" / name


def _sum(path: Path) -> str:
    return hashlib.sha256(papers.text(path).encode()).hexdigest()


def _stays(pod: Pod) -> list[str]:
    kinds = {"emptyDir": "is made anew, empty", "hostPath": "is the other host's own"}
    return [
        f"pod {pod.name}: its volume {volume['name']} ({kind}) {what}"
        for volume in pod.spec.get("volumes") or [] for kind, what in kinds.items() if volume.get(kind) is not None
    ]  # fmt: skip


def _problems(declared: dict[str, Pod], chosen: list[Pod], claimed: dict[str, str], there: list[str]) -> list[str]:
    problems = _host_problems()
    staying = [pod for pod in declared.values() if pod not in chosen]
    for pod in staying:
        problems += [
            f"pod {pod.name} stays, and uses volume {name} of pod {claimed[name]}: select it, too"
            for name in contents.claims(pod) if name in claimed
        ]  # fmt: skip
    problems += [
        f"pod {pod} claims volume {name}, which is not there" for name, pod in claimed.items() if name not in there
    ]
    return problems


def _host_problems() -> list[str]:
    problems = []
    if edge.RUNS_PODS.exists():
        problems.append("EdgeCore runs the pods of this host, and not casemate-pod: its cloud says where they run")
    if transaction.current():
        problems.append("a change of release is under way; wait for it")
    return problems


def _images(pods: list[Pod]) -> list[dict[str, str]]:
    found = []
    for reference in sorted({one["image"] for pod in pods for one in pod.init_containers + pod.containers}):
        if identity := here.image(reference):
            found.append({"reference": reference, "id": identity})
    return found


def _compare_images(images: list[dict], others: dict[str, Pod]) -> tuple[list[str], list[str]]:
    """The references that are to be brought, and those that name something else there that is in use."""
    missing, problems = [], []
    for one in images:
        there = here.image(one["reference"])
        if there == one["id"]:
            continue
        missing.append(one["reference"])
        users = [
            pod.name for pod in others.values()
            if there and one["reference"] in [c["image"] for c in pod.init_containers + pod.containers]
        ]  # fmt: skip
        if users:
            problems.append(f"image {one['reference']} is another one there, which pod {', '.join(users)} uses")
    return missing, problems


def _volume_problems(name: str, others: dict[str, Pod], there: set[str]) -> list[str]:
    """A volume that the inventory declared and nobody has used yet may be replaced."""
    problems = []
    if name in there:
        users = [pod.name for pod in others.values() if name in contents.claims(pod)]
        if users:
            problems.append(f"volume {name} is there already, and pod {', '.join(users)} uses it")
        elif any(_place(name).iterdir()):
            problems.append(f"volume {name} is there already, and is not empty: {_place(name)}")
    return problems


def _ports(manifests: list[dict], others: dict[str, Pod], replacing: bool) -> list[str]:
    """Ports of the host that are taken; what listens is not looked at where it may be what is about to be replaced."""
    taken = {port: f"pod {pod.name}" for pod in others.values() for port in _host_ports(pod.manifest)}
    if not replacing:
        told = subprocess.run(["ss", "-Hltun"], capture_output=True, text=True, check=False).stdout
        for row in (line.split() for line in told.splitlines()):
            taken.setdefault((row[0].upper(), int(row[4].rpartition(":")[2])), "another program")
    return [
        f"port {number}/{protocol} of pod {one['metadata']['name']} is taken there by {taken[protocol, number]}"
        for one in manifests for protocol, number in _host_ports(one) if (protocol, number) in taken
    ]  # fmt: skip


def _host_ports(pod: dict) -> list[tuple[str, int]]:
    on_host = bool(pod["spec"].get("hostNetwork"))
    return [
        (port.get("protocol") or "TCP", port.get("hostPort") or port["containerPort"])
        for container in pod["spec"]["containers"] for port in container.get("ports") or []
        if port.get("hostPort") or on_host
    ]  # fmt: skip
