"""Which version of each part the lock declares, which is installed, and whether what runs is an older one."""

from __future__ import annotations

import json

from appliance.node.health import services
from appliance.node.health.host import Host

PACKAGES = {
    "containerd": "containerd",
    "runc": "runc",
    "qemu": "qemu-system-x86",
    "prometheus": "prometheus",
    "node-exporter": "prometheus-node-exporter",
}
"""The package that each component is of."""
_UNITS = {
    "containerd": "containerd.service",
    "prometheus": "prometheus.service",
    "node-exporter": "prometheus-node-exporter.service",
}
_GUEST = "var/lib/casemate/microvm/guest/current/manifest.json"


def gather(host: Host) -> dict[str, dict]:
    """By component: {"installed": a package's version or None, "declared": the lock's, None without one, "outdated":
    the program that runs was replaced since it started}. The guests' are those of their kernel's package."""
    from appliance.node.release import locked, transaction  # preflight travels without

    asked = host.run(["dpkg-query", "--show", "--showformat=${Package} ${Version}\n", *PACKAGES.values()])
    there = dict(line.split(" ", 1) for line in asked.out.splitlines() if " " in line)
    try:
        lock = transaction.released().get("lock")
        release = locked.load(lock) if lock else None
    except locked.LockError:
        release = None  # the finding `drift` says so
    declared = {name: one.version for name, one in release.packages.items()} if release else {}
    found = {
        name: {
            "installed": there.get(package) or None,
            "declared": declared.get(package),
            "outdated": name in _UNITS and services.is_replaced(host, _pid(host, _UNITS[name])),
        }
        for name, package in PACKAGES.items()
    }
    kernel = release.kernel[0] if release and release.kernel else ""
    found["microvm"] = {"installed": _guest_kernel(host), "declared": declared.get(kernel), "outdated": False}
    return found


def _pid(host: Host, unit: str) -> str:
    return host.run(["systemctl", "show", "--property=MainPID", "--value", unit]).out.strip() or "0"


def _guest_kernel(host: Host) -> str | None:
    """The version of the package that the guests' kernel is of."""
    try:
        manifest = json.loads(host.read(f"/{_GUEST}"))
        return manifest["packages"].get(f"linux-image-{manifest['kernel']}")
    except (OSError, ValueError, KeyError, AttributeError):
        return None
