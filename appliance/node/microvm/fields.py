"""Every field of a container's OCI spec (runtime-spec 1.2, Linux), and what becomes of it in a guest.

A field is given to the guest's crun, dropped because it speaks of the host and means nothing in a guest, or refused.
What the table does not know is refused too, by name: nothing that somebody asked for is left out in silence. A field
that is empty asks for nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import NamedTuple

from .settings import RuntimeFailure

GIVEN, DROPPED = "given", "dropped"


class Refused(NamedTuple):
    """Why a field cannot be had; a value of which `harmless` is true asks for nothing, and is dropped."""

    why: str
    harmless: Callable[[object], bool] = lambda value: False


OLD_CRUN = Refused("the guest's crun (Debian 12: 1.8) may not know it, and would leave it out without a word")
HOST_DEVICES = Refused("a microVM has none of the host's devices")
HOST_PROCESSORS = Refused("it names processors or memory of the host, and a guest has its own")
OLD_CGROUPS = Refused("the guest has cgroup v2 only, and there it is not to be had")

RESOURCES = {
    "devices": GIVEN,
    "memory": {
        "limit": GIVEN,
        "reservation": GIVEN,
        "swap": GIVEN,
        "swappiness": DROPPED,  # a guest has no swap
        "useHierarchy": DROPPED,  # cgroup v2 always does
        "kernel": OLD_CGROUPS,
        "kernelTCP": OLD_CGROUPS,
        "disableOOMKiller": OLD_CGROUPS,
        "checkBeforeUpdate": OLD_CRUN,
    },
    "cpu": {
        "shares": GIVEN,
        "quota": GIVEN,
        "period": GIVEN,
        "cpus": HOST_PROCESSORS,
        "mems": HOST_PROCESSORS,
        "realtimeRuntime": OLD_CGROUPS,
        "realtimePeriod": OLD_CGROUPS,
        "burst": OLD_CRUN,
        "idle": OLD_CRUN,
    },
    "pids": {"limit": GIVEN},
    "unified": GIVEN,
    "blockIO": HOST_DEVICES,
    # Kubernetes lists each page size of the host, with a limit of 0 where the pod asks for none.
    "hugepageLimits": Refused("a guest has no huge pages", lambda value: not any(each.get("limit") for each in value)),
    "network": OLD_CGROUPS,  # classID and priorities
    "rdma": HOST_DEVICES,
}

PROCESS = {
    "terminal": GIVEN,
    "consoleSize": GIVEN,
    "user": {"uid": GIVEN, "gid": GIVEN, "umask": GIVEN, "additionalGids": GIVEN},
    "args": GIVEN,
    "env": GIVEN,
    "cwd": GIVEN,
    "capabilities": GIVEN,
    "rlimits": GIVEN,
    "noNewPrivileges": GIVEN,
    "oomScoreAdj": GIVEN,
    # The engine's default profile guards the host's kernel, which a guest does not reach.
    "apparmorProfile": Refused(
        "a guest loads no AppArmor policy", lambda value: value in ("cri-containerd.apparmor.d", "unconfined")
    ),
    "selinuxLabel": DROPPED,  # the engine labels everything where the host has a policy; so for mountLabel
    "scheduler": OLD_CRUN,
    "ioPriority": OLD_CRUN,
    "execCPUAffinity": OLD_CRUN,
}

SPEC = {
    "ociVersion": GIVEN,
    "annotations": GIVEN,
    "hostname": DROPPED,  # the pod's, and so the guest's own
    "domainname": OLD_CRUN,
    "process": PROCESS,
    "root": {"path": GIVEN, "readonly": GIVEN},
    "mounts": GIVEN,  # each of them is judged in spec.py
    "hooks": Refused("OCI hooks run on the host and cannot act on a microVM"),
    "linux": {
        "namespaces": GIVEN,  # judged in spec.py
        "cgroupsPath": GIVEN,
        "resources": RESOURCES,
        "sysctl": GIVEN,
        "seccomp": {
            "defaultAction": GIVEN,
            "defaultErrnoRet": GIVEN,
            "architectures": GIVEN,
            "flags": GIVEN,
            "syscalls": GIVEN,
            "listenerPath": Refused("a process of the host cannot answer for system calls of a guest"),
            "listenerMetadata": Refused("a process of the host cannot answer for system calls of a guest"),
        },
        "maskedPaths": GIVEN,
        "readonlyPaths": GIVEN,
        "mountLabel": DROPPED,
        "rootfsPropagation": Refused(
            "mountPropagation: mounts do not propagate between host and guest",
            lambda value: value in ("private", "rprivate"),
        ),
        "devices": HOST_DEVICES,
        "netDevices": HOST_DEVICES,
        "uidMappings": Refused("a user namespace of the host means nothing in a guest"),
        "gidMappings": Refused("a user namespace of the host means nothing in a guest"),
        "timeOffsets": OLD_CRUN,
        "personality": OLD_CRUN,
        "memoryPolicy": OLD_CRUN,
        "intelRdt": Refused("it shares out caches of the host's processors"),
    },
}


def take(content: dict, table: dict = SPEC, where: str = "") -> dict:
    """Return what of `content` the guest's crun is given.

    Raises RuntimeFailure naming the field, its value and why it cannot be had.
    """
    taken = {}
    for name, value in content.items():
        path, fate = where + name, table.get(name, Refused("this runtime does not know this field"))
        if isinstance(fate, dict):
            taken[name] = take(value or {}, fate, f"{path}.")
        elif fate is GIVEN:
            taken[name] = value
        elif isinstance(fate, Refused) and not _asks_for_nothing(value) and not fate.harmless(value):
            shown = json.dumps(value)
            shown = shown if len(shown) <= 200 else f"{shown[:200]}..."
            raise RuntimeFailure(f"{path} is {shown}: {fate.why}; the pod needs runtimeClassName: runc")
    return taken


def _asks_for_nothing(value: object) -> bool:
    if isinstance(value, dict):
        return all(map(_asks_for_nothing, value.values()))
    if isinstance(value, list):
        return all(map(_asks_for_nothing, value))
    return not value
