"""Monitoring: services and measurements of the packages that came with Casemate."""

from __future__ import annotations

from pathlib import Path

from appliance.node.reset import records
from appliance.node.reset.remover import Remover


def reset(remover: Remover, options: dict) -> None:
    """Stop Prometheus and the node exporter, and remove what they measured; what was there before stays."""
    for package in ("prometheus", "prometheus-node-exporter"):
        if package in records.packages_installed():
            remover.unit(f"{package}.service")
    if {"prometheus", "prometheus-node-exporter"} <= records.packages_installed():
        remover.tree(Path("/var/lib/prometheus"))
