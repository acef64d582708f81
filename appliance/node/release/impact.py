"""What a change of packages does to what runs: said before, by `plan`, and measured after by the tests."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from appliance.node.microvm.image import CURRENT

from .locked import Release

NONE, SERVICE, MICROVMS, REBOOT = "none", "service restarts", "microVMs keep the old one", "reboot"
_SERVICES = {
    "containerd": "the engine restarts, pods stay up",
    "prometheus": "it restarts",
    "prometheus-node-exporter": "it restarts",
    "mosquitto": "it restarts, and devices connect again",
}
_VM = ("qemu-system-x86", "seabios")
_VM_WORDS = "microVMs that run keep the old one until they restart; upgrade --restart-pods restarts them one by one"


def of(release: Release, different: Mapping[str, Mapping], programs: tuple[str, str]) -> list[dict]:
    """What changes, each with what it means: [{"component", "from", "to", "impact", "words"}].

    `different` is what `locked.look` says, `programs` the node programs' release there and to come. Packages that are
    part of nothing that runs are one line together. The host's own stay, and have none.
    """
    found, rest = [], list(different["install"])
    for name, (old, new) in different["change"].items():
        if name in _SERVICES:
            found.append(_line(name, old, new, SERVICE, _SERVICES[name]))
        elif name in _VM:
            found.append(_line(name, old, new, MICROVMS, _VM_WORDS))
        elif name.startswith(("linux-image-", "linux-headers-")):
            found.append(_line(name, old, new, REBOOT, "the host runs the old kernel until it is booted anew"))
        else:
            rest.append(name)
    if programs[0] != programs[1]:
        found.append(_line("casemate", *programs, SERVICE, "pods' runners restart, pods stay up"))
    if guest := _guest(release):
        found.append(_line("guest", *guest, MICROVMS, _VM_WORDS))
    if rest:
        text = "what runs keeps what it has, and uses the new from its next start"
        found.append(_line(f"{len(rest)} other packages", None, None, NONE, text))
    return found


def words(lines: Iterable[Mapping]) -> list[str]:
    """The lines for people."""
    said = []
    for one in lines:
        versions = f" {one['from'] or 'none'} -> {one['to']}" if one["to"] else ""
        said.append(f"{one['component']}{versions}: {one['words']}")
    return said


def _line(component: str, old: str | None, new: str | None, impact: str, text: str) -> dict:
    return {"component": component, "from": old, "to": new, "impact": impact, "words": text}


def _guest(release: Release) -> tuple[str | None, str] | None:
    """The guests' kernel there and to come, where any package of theirs changes."""
    wanted = {name: release.packages[name].version for name in (*release.guest, *release.kernel)}
    try:
        manifest = json.loads((CURRENT / "manifest.json").read_text())
    except (OSError, ValueError):
        manifest = {"packages": {}, "kernel": None}
    if manifest["packages"] == wanted:
        return None
    kernel = release.kernel[0] if release.kernel else ""
    return manifest["kernel"], f"{kernel.removeprefix('linux-image-')} ({wanted.get(kernel, '')})"
