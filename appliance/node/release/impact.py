"""What a change of packages does to what runs: said before, by `plan`, and measured after by the tests."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping

from appliance.node.microvm.image import CURRENT

from .locked import Release

NONE, SERVICE, KEPT, ROLLED, REBOOT = "none", "service", "microvms-keep", "microvms-restart", "reboot"
"""What happens: nothing; a service restarts and pods stay up; microVMs that run keep the old one, or are restarted,
both with the pods' names; the host uses it from its next boot on."""
_SERVICES = {
    "containerd": "the engine restarts, pods stay up",
    "prometheus": "it restarts",
    "prometheus-node-exporter": "it restarts",
    "mosquitto": "it restarts, and devices connect again",
}
_SHOWN = 6
_VM = ("qemu-system-x86", "seabios")
_VM_WORDS = {
    KEPT: "microVMs that run keep the old one until they restart; --restart-pods restarts them one by one",
    ROLLED: "microVMs are restarted one by one",
}


def of(release: Release, different: Mapping[str, Mapping], programs: tuple[str, str],
       microvms: Callable[[], list[str]] = lambda: [], restart: bool = False) -> list[dict]:  # fmt: skip
    """What changes, each with what it means: [{"component", "from", "to", "impact", "pods", "packages", "words"}].

    `different` is what `locked.look` says, `programs` the node programs' release there and to come, `microvms` names
    the microVM pods that run, `restart` whether they are to be restarted. Packages that are part of nothing that runs
    are one line together, `packages`: {name: [from or None, to]}. The host's own stay, and have none.
    """
    found, rest = [], {name: [None, new] for name, new in different["install"].items()}
    vm = (ROLLED if restart else KEPT), _VM_WORDS[ROLLED if restart else KEPT]
    for name, (old, new) in different["change"].items():
        if name in _SERVICES:
            found.append(_line(name, old, new, SERVICE, _SERVICES[name]))
        elif name in _VM:
            found.append(_line(name, old, new, *vm))
        elif name.startswith(("linux-image-", "linux-headers-")):
            found.append(_line(name, old, new, REBOOT, "the host runs the old kernel until it is booted anew"))
        else:
            rest[name] = [old, new]
    if programs[0] != programs[1]:
        found.append(_line("casemate", *programs, SERVICE, "pods' runners restart, pods stay up"))
    if guest := _guest(release):
        found.append(_line("guest", *guest, *vm))
    if rest:
        text = "what runs keeps what it has, and uses the new from its next start"
        found.append(_line("others", None, None, NONE, text) | {"packages": rest})
    touched = microvms() if any(one["impact"] == vm[0] for one in found) else []
    for one in found:
        one["pods"] = touched if one["impact"] == vm[0] else []
    return found


def words(lines: Iterable[Mapping]) -> list[str]:
    """The lines for people."""
    said = []
    for one in lines:
        versions = f" {one['from'] or 'none'} -> {one['to']}" if one["to"] else f" ({_some(one['packages'])})"
        pods = f": {', '.join(one['pods'])}" if one["pods"] else ""
        said.append(f"{one['component']}{versions}: {one['words']}{pods}")
    return said


def _line(component: str, old: str | None, new: str | None, impact: str, text: str) -> dict:
    return {"component": component, "from": old, "to": new, "impact": impact, "words": text, "packages": {}}


def _some(packages: Mapping[str, list]) -> str:
    """The first few of them, with what they become."""
    shown = [f"{name} {new}" for name, (_, new) in list(packages.items())[:_SHOWN]]
    more = len(packages) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


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
