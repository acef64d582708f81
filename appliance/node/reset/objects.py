"""Object storage: its services and Swift's rings; what is stored stays in its volume, and goes with the pool."""

from __future__ import annotations

from pathlib import Path

from appliance.node.reset.remover import Remover

DECLARED = Path("/etc/casemate/objects.json")
SWIFT = Path("/etc/swift")
UNITS = (
    "casemate-objects-upkeep.timer",
    "casemate-objects-update.timer",
    "casemate-objects.socket",
    "casemate-objects.service",
    "swift-proxy.service",
    "swift-object.service",
    "swift-container.service",
    "swift-account.service",
    "casemate-objects-cache.service",
)


def reset(remover: Remover, options: dict) -> None:
    """Stop what the role started; nothing where it never did."""
    if not DECLARED.exists():
        return
    for unit in UNITS:
        remover.unit(unit)
    for ring in ("account", "container", "object"):
        for suffix in ("builder", "ring.gz"):
            remover.tree(SWIFT / f"{ring}.{suffix}")
    for made in SWIFT.glob("*.rings"):
        remover.tree(made)
