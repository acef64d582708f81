"""Memory, disk and control groups."""

from __future__ import annotations

import os
from collections.abc import Iterator

from appliance.node.health import cgroups, facts
from appliance.node.health.host import Host
from appliance.node.health.registry import Finding, check
from appliance.node.health.settings import Settings


@check("memory", "preflight", "doctor")
def memory(host: Host, settings: Settings) -> Finding:
    """Engine, Prometheus and one small guest must fit."""
    mib = facts.memory_mib(host)
    limit = cgroups.memory_limit_mib(host)
    evidence = f"{mib} MiB" + (" (limit of this host's control group)" if limit == mib else "")
    cure = "give the machine more memory" + (" (raise MemoryMax or memory.limit_in_bytes)" if limit == mib else "")
    if mib < settings.memory_required_mib:
        return Finding(
            ok=False,
            evidence=evidence,
            cause=f"engine, monitoring and one guest need a 1 GiB machine ({settings.memory_required_mib} MiB usable)",
            cure=cure,
        )
    if mib < settings.memory_recommended_mib:
        return Finding(
            ok=False,
            severity="warning",
            evidence=evidence,
            cause=f"below the recommended 2 GiB ({settings.memory_recommended_mib} MiB usable) only small pods fit",
            cure=cure,
        )
    return Finding(ok=True, evidence=evidence)


@check("disk", "preflight", "doctor")
def disk(host: Host, settings: Settings) -> Iterator[Finding]:
    """Packages go to /usr; guest image, templates and containers to /var. One finding a file system."""
    deployed = host.path("/etc/casemate/release.json").exists()
    needed = settings.disk_spare_mib if deployed else settings.disk_required_mib
    seen = set()
    for name, cure in (
        (
            "/var",
            "free space (apt clean; journalctl --vacuum-size=100M; du -xh /var | sort -h) or enlarge the file system",
        ),
        ("/usr", "free space (apt autoremove) or enlarge the file system"),
    ):
        path = host.existing(name)
        device = path.stat().st_dev
        if device in seen:
            continue
        seen.add(device)
        where, free = name[1:], host.free_mib(name)
        if not os.access(path, os.W_OK) and host.euid() == 0:
            yield Finding(
                ok=False,
                of=where,
                evidence=f"{name} is read-only",
                cause="the file system is mounted read-only, by intent or after an I/O error",
                cure=f"look at dmesg, then mount -o remount,rw {name}",
            )
        elif free < needed:
            yield Finding(
                ok=False,
                of=where,
                evidence=f"{free} MiB free on {name}",
                cause=f"{needed} MiB are needed "
                + ("to keep running" if deployed else "for packages, guest image and pods"),
                cure=cure,
            )
        else:
            yield Finding(ok=True, of=where, evidence=f"{free} MiB free on {name}")


@check("cgroups", "preflight", "doctor")
def control_groups(host: Host, settings: Settings) -> Finding:
    """Without these controllers no pod can be limited, and the engine refuses to start one."""
    version, unusable = cgroups.version(host), cgroups.unusable(host)
    if not unusable:
        return Finding(ok=True, evidence=f"{version}: {', '.join(cgroups.NEEDED)} usable")
    evidence = f"{version}: " + ", ".join(f"{name} {reason}" for name, reason in sorted(unusable.items()))
    if "absent" in unusable.values():
        return Finding(
            ok=False,
            evidence=evidence,
            cause="the kernel or the container that this host runs in does not offer these controllers",
            cure="boot with cgroup_enable=memory (and without cgroup_disable=...), "
            "or delegate the controllers to the container (systemd: Delegate=yes)",
        )
    return Finding(
        ok=False,
        evidence=evidence,
        cause="the control group hierarchies are mounted read-only, as containers get them",
        cure=f"for c in {' '.join(sorted(unusable))}; do mount -o remount,bind,rw {cgroups.ROOT}/$c; done"
        if version == "v1"
        else f"mount -o remount,rw {cgroups.ROOT}",
    )
