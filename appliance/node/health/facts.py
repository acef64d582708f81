"""What roles need to know about a host; becomes the fact `casemate_host`."""

from __future__ import annotations

import os
import re
import socket
import struct

from appliance.node.health import blockdev, cgroups, dpkg, edgecore
from appliance.node.health.host import Host
from appliance.node.health.settings import Settings


def gather(host: Host, settings: Settings) -> dict:
    """The facts: strings, integers, lists of strings, `storage` (blockdev.look), `edge` (edgecore.facts) and `objects`,
    whether object storage was deployed."""
    release = os_release(host)
    return {
        "distribution": release.get("ID", "unknown"),
        "distribution_release": release.get("VERSION_CODENAME", "unknown"),
        "distribution_version": release.get("VERSION_ID", "unknown"),
        "hostname": host.hostname(),
        "architecture": os.uname().machine,
        "kernel": os.uname().release,
        "memory_mib": memory_mib(host),
        "cpus": len(os.sched_getaffinity(0)),
        "cgroup": cgroups.version(host),
        "init": host.read("/proc/1/comm").strip() or "unknown",
        "addresses": addresses(host),
        "default_interface": default_interface(host),
        "dpkg_unfinished": dpkg.unfinished(host, dpkg.audit(host)),
        "storage": blockdev.look(host, settings),
        "node": node_release(host),
        "edge": edgecore.facts(host),
        "objects": host.path("/etc/casemate/objects.json").exists(),
    }


def node_release(host: Host) -> str:
    """The id of the node programs in use, "" where there are none or an installation was cut off."""
    current = host.path("/usr/lib/casemate/current")
    whole = current.is_symlink() and current.is_dir() and host.path("/usr/lib/casemate/bin").is_dir()
    return current.readlink().name if whole else ""


def os_release(host: Host) -> dict[str, str]:
    """/etc/os-release as a dict, quotes taken off."""
    text = host.read("/etc/os-release") or host.read("/usr/lib/os-release")
    pairs = (line.split("=", 1) for line in text.splitlines() if "=" in line and not line.startswith("#"))
    return {key.strip(): value.strip().strip("\"'") for key, value in pairs}


def memory_mib(host: Host) -> int:
    """Memory this host may use, in MiB: the machine's, or its control group's limit where that is smaller."""
    total = re.search(r"^MemTotal:\s+(\d+) kB", host.read("/proc/meminfo"), re.MULTILINE)
    mib = int(total.group(1)) >> 10 if total else 0
    limit = cgroups.memory_limit_mib(host)
    return mib if limit is None else min(mib, limit)


def default_interface(host: Host) -> str:
    """The interface of the IPv4 default route with the lowest metric, or ""."""
    routes: list[tuple[int, str]] = []
    for line in host.read("/proc/net/route").splitlines()[1:]:
        interface, destination, _, _, _, _, metric, mask = line.split()[:8]
        if destination == "00000000" and mask == "00000000":
            routes.append((int(metric), interface))
    return min(routes)[1] if routes else ""


def addresses(host: Host) -> list[str]:
    """The host's own addresses but loopback and link-local ones: IPv4 first, then global IPv6, each sorted."""
    local = re.findall(r"\|-- (\d+\.\d+\.\d+\.\d+)\n\s*/32 host LOCAL$", host.read("/proc/net/fib_trie"), re.MULTILINE)
    found = {one for one in local if not one.startswith(("127.", "169.254."))}
    version4 = sorted(found, key=socket.inet_aton)
    version6 = []
    for line in host.read("/proc/net/if_inet6").splitlines():
        digits, _, _, scope = line.split()[:4]
        if scope == "00":
            version6.append(
                socket.inet_ntop(socket.AF_INET6, struct.pack("!QQ", int(digits[:16], 16), int(digits[16:], 16)))
            )
    return version4 + sorted(version6)
