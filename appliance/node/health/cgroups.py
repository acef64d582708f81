"""Control groups as this host has them: version, which controllers can be used, and the memory limit above us."""

from __future__ import annotations

import re

from appliance.node.health.host import Host

ROOT = "/sys/fs/cgroup"
# What a pod's limits are made of.
NEEDED = ("cpu", "memory", "pids")
# The kernel shows "no limit" of version 1 as a number near 2^63.
UNLIMITED_MIB = 1 << 40


def version(host: Host) -> str:
    """`v2` on a unified hierarchy; else `v1`, a hybrid one included, since controllers live in the old part of it."""
    return "v2" if host.path(f"{ROOT}/cgroup.controllers").exists() else "v1"


def unusable(host: Host) -> dict[str, str]:
    """The needed controllers that cannot be used, each with the reason: `absent` or `read-only`."""
    if version(host) == "v2":
        there = host.read(f"{ROOT}/cgroup.controllers").split()
        reasons = {name: "absent" for name in NEEDED if name not in there}
        if "ro" in _options(host, ROOT):
            reasons.update({name: "read-only" for name in NEEDED if name in there})
        return reasons
    reasons = {}
    for name in NEEDED:
        mounted = _mounts_of(host, name)
        if not mounted:
            reasons[name] = "absent"
        elif all("ro" in options for options in mounted):
            reasons[name] = "read-only"
    return reasons


def memory_limit_mib(host: Host) -> int | None:
    """The limit in MiB on everything in this host (a container of some kind), or None."""
    # Version 1 tells the smallest limit of all groups above, also those outside our view.
    stat = re.search(r"^hierarchical_memory_limit (\d+)$", host.read(f"{ROOT}/memory/memory.stat"), re.MULTILINE)
    text = stat.group(1) if stat else host.read(f"{ROOT}/memory.max").strip()
    if not text.isdigit():
        return None
    mib = int(text) >> 20
    return mib if mib < UNLIMITED_MIB else None


def _mounts_of(host: Host, controller: str) -> list[list[str]]:
    """Mount options of each version 1 hierarchy that has the controller and lies where programs look for it."""
    found = []
    for fields in _mounts(host):
        if fields[2] == "cgroup" and fields[1].startswith(ROOT) and controller in fields[3].split(","):
            found.append(fields[3].split(","))
    return found


def _options(host: Host, where: str) -> list[str]:
    """Options of the topmost mount at `where`."""
    found = [fields[3].split(",") for fields in _mounts(host) if fields[1] == where]
    return found[-1] if found else []


def _mounts(host: Host) -> list[list[str]]:
    return [line.split() for line in host.read("/proc/self/mounts").splitlines()]
