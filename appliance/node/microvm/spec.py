"""What a pod's OCI specs become: the sandbox a jail for QEMU, a workload a stand-in here and a container in the guest.

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
CTL, SHARE, VOLUMES, GUEST, TEMPLATE = (f"/run/pod/{name}" for name in ("ctl", "share", "volumes", "guest", "template"))

# What QEMU's file server needs to act for the guest on files of any owner; nothing else of root is left to it.
JAIL_CAPABILITIES = ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_SETFCAP"]

READ_ONLY_BIND = ["bind", "ro", "nosuid", "nodev"]


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


def jail(
    spec: dict, *, root: str, state: str, guest: str, template: str | None, template_writable: bool,
    uid: int, gid: int, devices: list[dict], argv: list[str], vcpus: int,
) -> dict:  # fmt: skip
    """Return the sandbox's spec as a jail: QEMU and the supervisor, no root, the host's /usr read-only.

    root, state, guest and template are directories of the host; devices are OCI devices (tun, and kvm where used).
    """
    new = _bare(spec, root, argv, uid, gid, JAIL_CAPABILITIES)
    new["mounts"] += [
        _mount(f"{state}/ctl", CTL, ["bind", "rw", "nosuid", "nodev", "noexec"]),
        _mount(f"{state}/share", SHARE, ["rbind", "rslave", "rw", "nosuid", "nodev", "noexec"]),
        _mount(f"{state}/volumes", VOLUMES, ["rbind", "rslave", "rw", "nosuid", "nodev", "noexec"]),
        _mount(guest, GUEST, [*READ_ONLY_BIND, "noexec"]),
    ]
    if template:
        access = ["bind", "rw", "nosuid", "nodev"] if template_writable else READ_ONLY_BIND
        new["mounts"].append(_mount(template, TEMPLATE, [*access, "noexec"]))
    linux = new["linux"]
    linux["devices"] = devices
    # The pod's own cgroup holds its containers' limits; here, a guest's processors weigh as much as so many programs.
    linux["resources"] = {
        "devices": [{"allow": False, "access": "rwm"}, *({
            "allow": True, "type": "c", "major": d["major"], "minor": d["minor"], "access": "rw"} for d in devices)],
        "cpu": {"shares": 1024 * vcpus},
    }  # fmt: skip
    # The engine protects its pause process from the out-of-memory killer; a whole guest must not be.
    new["process"]["oomScoreAdj"] = 0
    return new


def stand_in(spec: dict, *, root: str, state: str, uid: int, gid: int, argv: list[str]) -> dict:
    """Return a workload's spec as its stand-in: one process with the pod's socket and nothing else."""
    new = _bare(spec, root, argv, uid, gid, [])
    new["mounts"].append(_mount(f"{state}/ctl", CTL, [*READ_ONLY_BIND, "noexec"]))
    new["process"] |= stand_in_process(spec["process"], argv, uid, gid)
    # The workload's limits are set in the guest; a stand-in must not be killed by them, nor outweigh the jail.
    new["linux"]["resources"] = {"devices": [{"allow": False, "access": "rwm"}], "cpu": {"shares": 1024}}
    return new


def stand_in_process(process: dict, argv: list[str], uid: int, gid: int) -> dict:
    """Return the OCI process of a stand-in for `process`; it keeps the terminal, and nothing else of it."""
    kept = {key: process[key] for key in ("terminal", "consoleSize", "oomScoreAdj") if key in process}
    return kept | {
        "args": argv,
        "cwd": "/",
        "env": ["PATH=/usr/sbin:/usr/bin"],
        "user": {"uid": uid, "gid": gid},
        "capabilities": {},
        "noNewPrivileges": True,
    }


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


def _bare(spec: dict, root: str, argv: list[str], uid: int, gid: int, capabilities: list[str]) -> dict:
    """Return `spec` with its identity, namespaces and cgroup, and nothing else of what it would run."""
    kinds = ("bounding", "effective", "permitted", "inheritable", "ambient")
    linux = {key: spec["linux"][key] for key in ("namespaces", "cgroupsPath") if key in spec["linux"]}
    hidden = ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/sched_debug"]
    new = {
        "ociVersion": spec["ociVersion"],
        "annotations": spec.get("annotations", {}),
        "process": stand_in_process({}, argv, uid, gid)
        | {"capabilities": {name: capabilities for name in kinds if capabilities}},
        "root": {"path": root, "readonly": True},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=64k"]},
            {
                "destination": "/dev/pts",  # for a stand-in with a terminal
                "type": "devpts",
                "source": "devpts",
                "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"],
            },
            _mount("/usr", "/usr", READ_ONLY_BIND),
        ],
        "linux": linux | {"maskedPaths": hidden, "readonlyPaths": ["/proc/sys", "/proc/sysrq-trigger", "/proc/irq"]},
    }
    if "hostname" in spec:
        new["hostname"] = spec["hostname"]
    return new


def _mount(source: str, destination: str, options: list[str]) -> dict:
    return {"destination": destination, "type": "bind", "source": source, "options": options}
