"""What a pod's OCI specs say, and what the spec of a workload becomes for the guest's crun.

Pure functions: they read no file and change nothing but what they return.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import NamedTuple

from . import fields
from .settings import MIB, RuntimeFailure

CRI = "io.kubernetes.cri."
OURS = "io.casemate.microvm/"
BOOT, VOLUMES = f"{OURS}boot", f"{OURS}volumes"
ANNOTATIONS = {BOOT: "cold", VOLUMES: "coherent"}
"""What a pod may ask of its microVM, and the one value that says other than the default."""

GUEST_FILE_SYSTEMS = {"bind", "proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup", "cgroup2"}
"""Types of mounts that need nothing of the host: crun makes them in the guest."""


class Volume(NamedTuple):
    """A host's file or directory that a container sees."""

    source: str
    name: str  # in the export of volumes
    read_only: bool
    recursive: bool


class Resources(NamedTuple):
    """What a pod asks for; None where it sets no limit."""

    memory: int | None  # bytes
    vcpus: int | None


def kind(spec: dict) -> tuple[str, str]:
    """Return ("sandbox" or "container", the sandbox's id).

    Raises RuntimeFailure for a container that no CRI engine made.
    """
    annotations = spec.get("annotations") or {}
    what, sandbox = annotations.get(CRI + "container-type"), annotations.get(CRI + "sandbox-id")
    if what not in ("sandbox", "container") or not sandbox:
        raise RuntimeFailure(
            "this container belongs to no pod (it lacks the annotations io.kubernetes.cri.container-type and "
            "-sandbox-id), and a microVM holds a pod: run it as a pod, or with the runtime runc"
        )
    return what, sandbox


def check_sandbox(spec: dict) -> str:
    """Return the path of the pod's network namespace.

    Raises RuntimeFailure naming what a microVM cannot give.
    """
    namespaces = _own_namespaces(spec["linux"])
    if "user" in namespaces:
        raise RuntimeFailure("a microVM cannot have a user namespace of the host: its pod needs runtimeClassName: runc")
    fields.take(spec)
    if not namespaces["network"]:
        raise RuntimeFailure("the engine made no network namespace for this pod; only pods made through CRI have one")
    return namespaces["network"]


def wishes(annotations: dict[str, str]) -> set[str]:
    """Return those of ANNOTATIONS that the pod has.

    Raises RuntimeFailure for one that means nothing, so that a misspelt one is not taken for obeyed.
    """
    ours = {name: value for name, value in annotations.items() if name.startswith(OURS)}
    for name, value in ours.items():
        if ANNOTATIONS.get(name) != value:
            known = ", ".join(": ".join(pair) for pair in ANNOTATIONS.items())
            raise RuntimeFailure(f"the pod's annotation {name}: {value} means nothing here; known are {known}")
    return set(ours)


def resources(annotations: dict[str, str]) -> Resources:
    """Read the pod's limits from the sandbox's annotations (engines set them from the pod's containers)."""

    def number(name: str) -> int:
        try:
            return int(annotations.get(f"{CRI}sandbox-{name}", "0"))
        except ValueError:
            return 0

    memory, quota, period = number("memory"), number("cpu-quota"), number("cpu-period")
    return Resources(memory if memory > 0 else None, math.ceil(quota / period) if quota > 0 and period > 0 else None)


def in_guest(spec: dict, container: str, name: Callable[[str, bool, bool], str]) -> tuple[dict, list[Volume]]:
    """Return a workload's spec for the guest's crun, and the volumes to show it.

    `name` gives a volume its name, from its source, whether it is read-only, and whether it is recursive.

    Raises RuntimeFailure naming what a microVM cannot give.
    """
    new = fields.take(copy.deepcopy(spec))
    new["root"]["path"] = f"/run/disk/{container}/root"
    linux = new["linux"]
    linux["cgroupsPath"] = f"/pod/{container}"
    linux["namespaces"] = _guest_namespaces(linux)
    # Else cgroup v2 gives a container that asks for nothing 2.5 times the weight of one that asks for a processor.
    cpu = linux.setdefault("resources", {}).setdefault("cpu", {})
    cpu["shares"] = cpu.get("shares") or 1024
    volumes: list[Volume] = []
    for mount in new.get("mounts", []):
        _check_mount(mount)
        options = mount.get("options") or []
        if mount.get("type") != "bind" and not {"bind", "rbind"} & set(options):
            continue
        if mount["destination"] == "/dev/shm" and kind(spec)[1] in mount["source"]:
            mount["source"] = "/dev/shm"  # the engine's, shared by the pod's containers: the guest's own, of its size
            continue
        source, read_only, recursive = mount["source"], "ro" in options, "rbind" in options
        volume = Volume(source, name(source, read_only, recursive), read_only, recursive)
        mount["source"] = str(PurePosixPath("/run/volumes", volume.name))
        volumes.append(volume)
    return new, volumes


def process_in_guest(process: dict) -> dict:
    """Return the OCI process of an exec for the guest's crun. Raises RuntimeFailure naming what it cannot have."""
    return fields.take(process, fields.PROCESS, "process.")


def resources_in_guest(resources: dict, memory_mib: int) -> dict:
    """Return new limits of a container (OCI resources) for the guest's crun; memory_mib is the guest's whole memory.

    Raises RuntimeFailure naming what cannot be had in a guest that runs.
    """
    limit = (resources.get("memory") or {}).get("limit") or 0
    if limit > memory_mib * MIB:
        raise RuntimeFailure(
            f"linux.resources.memory.limit is {limit}: this pod's guest has {memory_mib} MiB, and a guest that runs "
            "cannot grow; its size follows from the pod's limits when the pod is made"
        )
    return fields.take(resources, fields.RESOURCES, "linux.resources.")


def _check_mount(mount: dict) -> None:
    """Raise RuntimeFailure when a mount would need the host's kernel."""
    options = set(mount.get("options") or [])
    if mount.get("uidMappings") or mount.get("gidMappings") or options & {"idmap", "ridmap"}:
        problem = "user ids cannot be mapped between host and guest"
    elif crossing := options & {"shared", "rshared", "slave", "rslave"}:
        problem = f"mountPropagation ({crossing.pop()}): mounts do not propagate between host and guest"
    elif not options & {"bind", "rbind"} and mount.get("type") not in GUEST_FILE_SYSTEMS:
        problem = f"a guest cannot mount the host's {mount.get('type')} file systems"
    else:
        return
    raise RuntimeFailure(f"mounts: {mount['destination']}: {problem}; the pod needs runtimeClassName: runc")


def _own_namespaces(linux: dict) -> dict[str, str | None]:
    """Return the path of each namespace by its type. Raises RuntimeFailure where the host's would be shared."""
    namespaces = {n["type"]: n.get("path") for n in linux.get("namespaces", [])}
    for name, field in (("network", "hostNetwork"), ("pid", "hostPID"), ("ipc", "hostIPC")):
        if name not in namespaces:
            raise RuntimeFailure(f"a microVM cannot have {field}: its pod needs runtimeClassName: runc")
    return namespaces


def _guest_namespaces(linux: dict) -> list[dict]:
    """Return the namespaces a container gets in its guest: the pod's are the guest's own."""
    if extra := _own_namespaces(linux).keys() - {"network", "pid", "ipc", "uts", "mount", "cgroup"}:
        raise RuntimeFailure(f"a microVM cannot have a {extra.pop()} namespace: its pod needs runtimeClassName: runc")
    return [{"type": name} for name in ("pid", "mount", "cgroup")]
