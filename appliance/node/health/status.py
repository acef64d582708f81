"""One JSON object for one host: what runs here, in which version, and is it well."""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor

# checks: registers what registry runs
from appliance.node.health import checks, edgecore, programs, registry, versions
from appliance.node.health.host import Host
from appliance.node.health.settings import Settings

# Without one of these no pod can run.
VITAL = ("engine", "unit-containerd", "storage", "microvm")


def gather(host: Host, settings: Settings) -> dict:
    """{"release", "health", "components", "pods", "findings"}: `findings` are the checks that did not pass.

    `health` is `not deployed`, `failed` (pods cannot run), `degraded` (something else of severity error) or `ok`.
    """
    release = programs.release(host)
    if release is None and not host.path(settings.bin).exists():
        return {"release": None, "health": "not deployed", "components": [], "pods": [], "findings": []}
    wrong = [one for one in registry.run("doctor", host, settings) if not one["ok"]]
    return {
        "release": (release or {}).get("release"),
        "health": health(wrong),
        "components": components(host, settings),
        "pods": pods(host, settings),
        "findings": wrong,
    }


def health(wrong: list[dict]) -> str:
    """The word for a list of findings that are not ok."""
    errors = [one["id"] for one in wrong if one["severity"] == "error"]
    if any(one in VITAL for one in errors):
        return "failed"
    return "degraded" if errors else "ok"


def components(host: Host, settings: Settings) -> list[dict]:
    """Name, version (of the running thing where it tells) and state of each part; and as versions.py says, for those
    that are of a package, "installed", "declared" and "outdated"."""
    engine, _ = programs.engine_version(host, settings)
    kernel = os.uname().release
    found = [
        {"name": "kernel", "version": kernel, "state": "running"},
        {"name": "containerd", "version": engine or None, "state": _active(host, "containerd.service")},
        {"name": "runc", "version": _version(host, ["runc", "--version"]), "state": "installed"},
        {
            "name": "qemu",
            "version": _version(host, ["qemu-system-x86_64", "--version"]),
            "state": "installed",
        },
        _microvm(host, settings),
    ]
    for name, unit, url, pattern in (
        ("prometheus", "prometheus.service", settings.prometheus_url, "prometheus"),
        ("node-exporter", "prometheus-node-exporter.service", settings.node_exporter_url, "node_exporter"),
    ):
        if url:
            version = _build_info(host, url, pattern)
            found.append({"name": name, "version": version, "state": _active(host, unit)})
    if (wanted := edgecore.declared(host)) is not None:
        found.append(_edgecore(host, wanted))
    if checks.objects.read(host):
        asked = ["dpkg-query", "--show", "--showformat=${Version}", "swift-proxy"]
        found.append(
            {"name": "swift", "version": host.run(asked).out or None, "state": _active(host, "swift-proxy.service")}
        )
    packaged = versions.gather(host)
    for one in found:
        if one["state"] == "installed" and one["version"] is None:
            one["state"] = "absent"
        one |= packaged.get(one["name"], {})
    return found


def pods(host: Host, settings: Settings) -> list[dict]:
    """The pods, each with the kernel that its guest says it runs (null without a guest of its own), and whether it is
    outdated: of another QEMU or guest image than a pod that is started now."""
    try:
        known = programs.pods(host, settings) or []
    except programs.ProgramError:
        return []  # the finding `pod` says why
    with ThreadPoolExecutor(max_workers=8) as pool:
        guests = list(pool.map(lambda pod: _guest(host, settings, pod), known))
    return [
        {
            "name": pod["name"],
            "runtime": pod.get("runtime") or None,
            "ready": bool(pod.get("ready")),
            "ip": pod.get("ip") or None,
            "guest_kernel": guest.get("guest_kernel"),
            "outdated": bool(guest.get("outdated")),
            "restarts": pod.get("restarts", 0),
        }
        for pod, guest in zip(known, guests, strict=True)
    ]


def _guest(host: Host, settings: Settings, pod: dict) -> dict:
    if pod.get("runtime") != "microvm" or not pod.get("sandbox_id"):
        return {}
    try:
        return programs.sandbox(host, settings, pod["sandbox_id"]) or {}
    except programs.ProgramError:
        return {}  # a guest that is starting or gone; `ready` and the findings tell


def _microvm(host: Host, settings: Settings) -> dict:
    try:
        status = programs.microvm(host, settings)
    except programs.ProgramError:
        return {"name": "microvm", "version": None, "state": "failed"}
    if status is None:
        return {"name": "microvm", "version": None, "state": "absent"}
    return {
        "name": "microvm",
        "version": (status.get("image") or {}).get("guest_kernel"),
        "state": "ready" if status.get("current") else "incomplete",
        "accelerator": status.get("accelerator"),
    }


def _edgecore(host: Host, wanted: dict) -> dict:
    """Its version as deployed: asked for it, EdgeCore would start a second daemon."""
    state = _active(host, edgecore.UNIT)
    there = edgecore.connected(host, wanted["cloud"])
    return {
        "name": "edgecore",
        "version": edgecore.applied(host).get("version"),
        "state": state,
        "node": wanted["node_name"],
        "cloud": "connected" if there else f"away since {edgecore.away_since(host)}" if state == "active" else "away",
    }


def _active(host: Host, unit: str) -> str:
    state = programs.unit(host, unit)
    return "absent" if state.get("LoadState") == "not-found" else state.get("ActiveState", "unknown")


def _version(host: Host, argv: list[str]) -> str | None:
    """The first thing that looks like a version in what a program says of itself."""
    said = re.search(r"\d+\.\d+[\w.+~-]*", host.run(argv).out)
    return said.group(0) if said else None


def _build_info(host: Host, url: str, name: str) -> str | None:
    """The version in a running program's own metrics."""
    try:
        text = host.fetch(f"{url}/metrics")
    except OSError:
        return None
    said = re.search(rf'^{name}_build_info{{[^}}]*version="([^"]+)"', text, re.MULTILINE)
    return said.group(1) if said else None
