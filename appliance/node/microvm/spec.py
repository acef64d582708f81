"""What a pod's OCI specs say, and what the spec of a workload becomes for the guest's runc.

Pure functions: they read no file and change nothing but what they return.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import re
from pathlib import PurePosixPath

from .settings import RuntimeFailure

CRI = "io.kubernetes.cri."


@dataclasses.dataclass(frozen=True)
class Volume:
    """A host's file or directory that a container sees."""

    source: str
    name: str  # below the container's directory in the export of volumes
    read_only: bool
    recursive: bool


@dataclasses.dataclass(frozen=True)
class Resources:
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
    if not re.fullmatch(r"\w[\w+.-]*", sandbox):
        raise RuntimeFailure(f"{sandbox!r} is no id of a sandbox")
    return what, sandbox


def check_sandbox(spec: dict) -> str:
    """Return the path of the pod's network namespace.

    Raises RuntimeFailure naming what a microVM cannot give: a namespace of the host.
    """
    namespaces = {n["type"]: n.get("path") for n in spec["linux"].get("namespaces", [])}
    for name, field in (("network", "hostNetwork"), ("pid", "hostPID"), ("ipc", "hostIPC")):
        if name not in namespaces:
            raise RuntimeFailure(f"a microVM cannot have {field}: its pod needs runtimeClassName: runc")
    if "user" in namespaces:
        raise RuntimeFailure("a microVM cannot have a user namespace of the host: its pod needs runtimeClassName: runc")
    if not namespaces["network"]:
        raise RuntimeFailure("the engine made no network namespace for this pod; only pods made through CRI have one")
    return namespaces["network"]


def resources(annotations: dict[str, str]) -> Resources:
    """Read the pod's limits from the sandbox's annotations (engines set them from the pod's containers)."""

    def number(name: str) -> int:
        try:
            return int(annotations.get(f"{CRI}sandbox-{name}", "0"))
        except ValueError:
            return 0

    memory, quota, period = number("memory"), number("cpu-quota"), number("cpu-period")
    return Resources(memory if memory > 0 else None, math.ceil(quota / period) if quota > 0 and period > 0 else None)


def in_guest(spec: dict, container: str) -> tuple[dict, list[Volume]]:
    """Return a workload's spec for the guest's runc, and the volumes to show it.

    Raises RuntimeFailure naming what a microVM cannot give.
    """
    if devices := (spec["linux"].get("devices") or []):
        raise RuntimeFailure(
            f"a microVM has none of the host's devices, and this container asks for {devices[0]['path']}: "
            "its pod needs runtimeClassName: runc"
        )
    if any((spec.get("hooks") or {}).values()):
        raise RuntimeFailure(
            "OCI hooks run on the host and cannot act on a microVM: the pod needs runtimeClassName: runc"
        )
    new = copy.deepcopy(spec)
    new.pop("hooks", None)
    new.pop("hostname", None)  # the pod's, which is the guest's
    new["root"]["path"] = f"/run/share/{container}"
    process, linux = new["process"], new["linux"]
    for name in ("apparmorProfile", "selinuxLabel"):  # of the host's kernel; the guest loads no policy
        process.pop(name, None)
    for name in ("mountLabel", "rootfsPropagation", "intelRdt"):
        linux.pop(name, None)
    linux["cgroupsPath"] = f"/pod/{container}"
    linux["namespaces"] = _guest_namespaces(linux.get("namespaces", []))
    (linux.get("resources") or {}).pop("hugepageLimits", None)
    volumes = []
    for mount in new.get("mounts", []):
        options = mount.get("options", [])
        if mount.get("type") != "bind" and not {"bind", "rbind"} & set(options):
            continue
        if mount["destination"] == "/dev/shm":
            mount["source"] = "/dev/shm"  # shared by the pod's containers, and memory: the guest's own
            continue
        volume = Volume(mount["source"], str(len(volumes)), "ro" in options, "rbind" in options)
        mount["source"] = str(PurePosixPath("/run/volumes", container, volume.name))
        volumes.append(volume)
    return new, volumes


def _guest_namespaces(namespaces: list[dict]) -> list[dict]:
    """Return the namespaces a container gets in its guest: the pod's are the guest's own."""
    given = {n["type"]: n.get("path") for n in namespaces}
    if "pid" not in given:
        raise RuntimeFailure("a microVM cannot have hostPID: its pod needs runtimeClassName: runc")
    if given["pid"]:
        raise RuntimeFailure(
            "shareProcessNamespace is not there for microVMs yet: the pod needs runtimeClassName: runc"
        )
    return [{"type": name} for name in ("pid", "mount", "cgroup")]
