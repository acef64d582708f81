"""The package manager, and software that ours would quarrel with."""

from __future__ import annotations

from collections.abc import Iterator

from appliance.node.health import dpkg, sockets
from appliance.node.health.host import Host
from appliance.node.health.registry import Finding, check
from appliance.node.health.settings import Settings

# Programs that run pods or containers of their own; process names as the kernel has them.
OTHER_ENGINES = {
    "dockerd": "Docker",
    "kubelet": "Kubernetes' kubelet",
    "k3s": "k3s",
    "k3s-server": "k3s",
    "crio": "CRI-O",
}


@check("dpkg", "preflight", "doctor")
def database(host: Host, settings: Settings) -> Finding:
    """A deploy that was cut off leaves dpkg like this, and the next deploy makes it good: so a warning."""
    audited = dpkg.audit(host)
    unfinished = dpkg.unfinished(host, audited)
    if unfinished:
        return Finding(
            ok=False,
            severity="warning",
            evidence="; ".join(unfinished[:5]),
            cause="an earlier installation was interrupted",
            cure="a deploy finishes it first; by hand: dpkg --configure -a && apt --fix-broken install",
        )
    if audited.code != 0:
        return Finding(
            ok=False,
            evidence=audited.message,
            cause="dpkg cannot read its database",
            cure="restore /var/lib/dpkg/status (copies are in /var/backups)",
        )
    return Finding(ok=True, evidence="nothing half-installed")


@check("dpkg-lock", "preflight")
def lock(host: Host, settings: Settings) -> Finding:
    """Asks the kernel who holds the lock, without taking it."""
    holder = dpkg.lock_holder(host)
    if not holder:
        return Finding(ok=True, evidence="not locked")
    name = host.read(f"/proc/{holder}/comm").strip() or "unknown"
    return Finding(
        ok=False,
        severity="warning",
        evidence=f"{dpkg.LOCK} is held by {name} (process {holder})",
        cause="another package manager is at work (unattended-upgrades after a boot, for example)",
        cure="nothing, the deploy waits for it; if it hangs, end it",
    )


@check("other-engine", "preflight", "doctor")
def other_engine(host: Host, settings: Settings) -> Iterator[Finding]:
    """Two engines can live side by side, but share ports, firewall rules and memory."""
    installed = host.run(["dpkg-query", "--showformat", "${db:Status-Abbrev}", "--show", "containerd.io"]).out
    if installed.startswith("ii"):
        yield Finding(
            ok=False,
            of="containerd.io",
            evidence="the package containerd.io is installed",
            cause="it conflicts with the distribution's containerd: installing that would remove it, and Docker",
            cure="apt remove containerd.io docker-ce, or deploy to another machine",
        )
    running = {}
    for process in host.path("/proc").glob("[0-9]*"):
        name = host.read(f"/proc/{process.name}/comm").strip()
        # Processes in pods are not the host's software.
        if name in OTHER_ENGINES and not sockets.unit_of(host, int(process.name)).startswith("casemate-"):
            running[name] = process.name
    for name, pid in sorted(running.items()):
        yield Finding(
            ok=False,
            severity="warning",
            of=name,
            evidence=f"{OTHER_ENGINES[name]} runs here (process {pid})",
            cause="it manages containers, addresses and firewall rules of its own on the same machine",
            cure=f"systemctl disable --now {name}, unless you want both",
        )
