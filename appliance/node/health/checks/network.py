"""The way to packages, and the ports that our services will take."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from appliance.node.health import facts, mirrors, sockets
from appliance.node.health.host import Host
from appliance.node.health.registry import Finding, check
from appliance.node.health.settings import Settings


@check("network", "preflight")
def network(host: Host, settings: Settings) -> Finding:
    """One finding for all sources: with none of them, or some of them, apt fails just the same."""
    if settings.offline:
        return Finding(ok=True, severity="info", evidence="not needed: offline")
    endpoints = mirrors.endpoints(host)
    if not mirrors.uris(host):
        return Finding(
            ok=False,
            evidence="no package source in /etc/apt/sources.list and /etc/apt/sources.list.d",
            cause="apt has nowhere to fetch packages from",
            cure="add the distribution's archive to /etc/apt/sources.list.d/",
        )

    def attempt(endpoint: tuple) -> str:
        address, port, why = endpoint
        trouble = host.connect(address, port, settings.network_timeout)
        return f"{trouble} ({why})" if trouble else ""

    with ThreadPoolExecutor(max_workers=8) as pool:
        failures = [one for one in pool.map(attempt, endpoints) if one]
    if not failures:
        return Finding(ok=True, evidence=f"{len(endpoints)} package sources or proxies reachable")
    route = facts.default_interface(host)
    # An appliance at the edge may be cut off; what is deployed there can still be changed.
    deployed = host.path("/etc/casemate/release.json").exists()
    return Finding(
        ok=False,
        severity="warning" if deployed else "error",
        evidence="; ".join(failures),
        cause="this host cannot reach where its apt fetches packages" + ("" if route else ": it has no default route"),
        cure="check ip route, /etc/resolv.conf and the sources below /etc/apt; "
        "behind a proxy set Acquire::http::Proxy in /etc/apt/apt.conf.d/",
    )


@check("port", "preflight")
def ports(host: Host, settings: Settings) -> Iterator[Finding]:
    """One finding a port that our services or the declared pods take."""
    # Host ports are forwarded by firewall rules, not listened on: whoever listens there would lose its callers.
    pods = [
        {"port": one, "address": "0.0.0.0", "for": "a pod", "setting": "the pod's hostPort"}  # noqa: S104
        for one in settings.host_ports
    ]
    wanted = settings.ports + pods
    held = sockets.listeners(host, {one["port"] for one in wanted})
    for one in wanted:
        port, address = one["port"], one["address"]
        others = [other for other in held if other.clashes(address, port) and other.unit not in one.get("owners", [])]
        if not others:
            yield Finding(ok=True, of=str(port), evidence=f"free for {one['for']}, or already its own")
            continue
        unit = others[0].unit
        yield Finding(
            ok=False,
            of=str(port),
            evidence=f"{address}:{port} is taken by " + ", ".join(sorted({other.who for other in others})),
            cause=f"{one['for']} needs this port",
            cure=(f"systemctl disable --now {unit}" if unit else "stop that program")
            + f", or set {one['setting']} to another port",
        )
