"""The OCI specs of what runs on the host for a pod: the jail with QEMU and the supervisor, and the stand-ins.

Pure functions: they read no file and change nothing but what they return.
"""

from __future__ import annotations

import copy

from . import qemu, seccomp
from .settings import MIB

CTL, SHARE, VOLUMES, GUEST, TEMPLATE, DISK = (
    f"/run/pod/{name}" for name in ("ctl", "share", "volumes", "guest", "template", "disk")
)

# What QEMU's file server needs to act for the guest on files of any owner; nothing else of root is left to it. The
# supervisor, which starts QEMU with them, gives them up once it has.
JAIL_CAPABILITIES = ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_SETFCAP"]

OVERHEAD_MIB = {"kvm": 192, "tcg": 192 + qemu.TRANSLATION_MIB}
"""Most memory that QEMU and the supervisor may take besides the guest's own."""
JAIL_PROCESSES, STAND_IN_PROCESSES = 256, 512
"""Most threads of a jail besides one a virtual processor (64 each for QEMU and port-forward), and of a container's
stand-ins."""
STAND_IN_MEMORY_MIB = 256
"""Most memory of a container's stand-ins, one for the container and one an exec, some 6 MiB each."""
OPEN_FILES = 16384
TERMINALS = 128
"""Most terminals of one container, so that nobody takes all that the host's kernel has."""

READ_ONLY_BIND = ["bind", "ro", "nosuid", "nodev"]


def jail(
    spec: dict, *, root: str, state: str, disk: str, guest: str, template: str | None, template_writable: bool,
    uid: int, devices: list[dict], argv: list[str], machine: qemu.Machine,
) -> dict:  # fmt: skip
    """Return the sandbox's spec as a jail: QEMU and the supervisor, no root, the host's /usr read-only.

    root, state, guest and template are directories of the host, disk is a file; devices are OCI devices (tun, and kvm
    where used).
    """
    new = _bare(spec, root, argv, uid, JAIL_CAPABILITIES)
    new["mounts"] += [
        _mount(f"{state}/ctl", CTL, ["bind", "rw", "nosuid", "nodev", "noexec"]),
        _mount(f"{state}/share", SHARE, ["rbind", "rslave", "ro", "nosuid", "nodev", "noexec"]),
        _mount(f"{state}/volumes", VOLUMES, ["rbind", "rslave", "rw", "nosuid", "nodev", "noexec"]),
        _mount(disk, DISK, ["bind", "rw", "nosuid", "nodev", "noexec"]),
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
        "cpu": {"shares": 1024 * machine.vcpus},
        # Whoever owns QEMU gets no more of the host than the pod was given.
        "memory": {"limit": (machine.memory_mib + OVERHEAD_MIB[machine.accelerator]) * MIB},
        "pids": {"limit": JAIL_PROCESSES + machine.vcpus},
    }  # fmt: skip
    # The engine protects its pause process from the out-of-memory killer; a whole guest must not be.
    new["process"]["oomScoreAdj"] = 0
    return new


def stand_in(spec: dict, *, root: str, state: str, uid: int, argv: list[str], counts_swap: bool) -> dict:
    """Return a workload's spec as its stand-in: one process with the pod's socket and nothing else.

    counts_swap tells whether the host's control groups can limit swap.
    """
    new = _bare(spec, root, argv, uid, [])
    new["mounts"] += [
        _mount(f"{state}/ctl", CTL, [*READ_ONLY_BIND, "noexec"]),
        {
            "destination": "/dev/pts",
            "type": "devpts",
            "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", f"max={TERMINALS}"],
        },
    ]
    new["process"] |= stand_in_process(spec["process"], argv, uid)
    # Nothing that the jail runs may see or signal it, whosever processes the workload sees in the guest.
    for namespace in new["linux"]["namespaces"]:
        if namespace["type"] == "pid":
            namespace.pop("path", None)
    # The workload's limits are set in the guest; a stand-in must not be killed by them, nor outweigh the jail. The one
    # on memory is also there to be run into on purpose (standin.py).
    memory = {"limit": STAND_IN_MEMORY_MIB * MIB}
    if counts_swap:
        memory["swap"] = memory["limit"]
    new["linux"]["resources"] = {
        "devices": [{"allow": False, "access": "rwm"}],
        "cpu": {"shares": 1024},
        "memory": memory,
        "pids": {"limit": STAND_IN_PROCESSES},
    }
    return new


def stand_in_process(process: dict, argv: list[str], uid: int) -> dict:
    """Return the OCI process of a stand-in for `process`; it keeps the terminal, and nothing else of it."""
    kept = {key: process[key] for key in ("terminal", "consoleSize", "oomScoreAdj") if key in process}
    return kept | {
        "args": argv,
        "cwd": "/",
        "env": ["PATH=/usr/sbin:/usr/bin"],
        "user": {"uid": uid, "gid": uid},
        "capabilities": {},
        "noNewPrivileges": True,
        "rlimits": [
            {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},  # a guest's memory holds the pod's secrets
            {"type": "RLIMIT_NOFILE", "soft": OPEN_FILES, "hard": OPEN_FILES},
        ],
    }


def _bare(spec: dict, root: str, argv: list[str], uid: int, capabilities: list[str]) -> dict:
    """Return `spec` with its identity, namespaces and cgroup, and nothing else of what it would run."""
    kinds = ("bounding", "effective", "permitted", "inheritable", "ambient")
    linux = {key: copy.deepcopy(spec["linux"][key]) for key in ("namespaces", "cgroupsPath") if key in spec["linux"]}
    hidden = ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/sched_debug"]
    new = {
        "ociVersion": spec["ociVersion"],
        "annotations": spec.get("annotations", {}),
        "process": stand_in_process({}, argv, uid)
        | {"capabilities": {name: capabilities for name in kinds if capabilities}},
        "root": {"path": root, "readonly": True},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=64k"]},
            _mount("/usr", "/usr", READ_ONLY_BIND),
        ],
        "linux": linux
        | {
            "maskedPaths": hidden,
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
            "seccomp": seccomp.profile(),
        },
    }
    if "hostname" in spec:
        new["hostname"] = spec["hostname"]
    return new


def _mount(source: str, destination: str, options: list[str]) -> dict:
    return {"destination": destination, "type": "bind", "source": source, "options": options}
