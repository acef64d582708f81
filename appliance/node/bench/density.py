"""What an idle pod costs the host: pods are added until as many as asked are there, or memory runs short.

Memory is PSS (pages shared by n processes count 1/n each), read from smaps when all pods are up. Of QEMU's, the
mapping of the guest's RAM is told apart: what is resident there, the guest itself uses. Everything else (QEMU with its
translated code, supervisor, stand-in, the engine's shim) is the overhead of running it.
"""

from __future__ import annotations

import re
import time
from pathlib import Path

from .pods import Node, Pod, say

KEPT_FREE = 0.2  # of the host's memory; below that, no pod is added
SETTLE_S = 5  # programs end their start-up work


def run(node: Node, handler: str, most: int) -> dict:
    """Return {"pods", "stopped_by", "available_mib_a_pod", "runs": [{"total", "guest", "overhead", PROCESS...}]}.

    All but "pods" and "stopped_by" is in MiB; "runs" has one object a pod.
    """
    before, pods, stopped_by = _available(), [], "limit"
    for number in range(1, most + 1):
        if _available() < KEPT_FREE * _memory("MemTotal"):
            stopped_by = "memory"
            break
        pod = node.pod(handler)
        pod.start("/bin/sh", "-c", "echo ready; exec sleep 3600")
        pod.output()
        pods.append(pod)
        say(f"{handler}: {number} of {most} idle pods")
    time.sleep(SETTLE_S)
    spent = (before - _available()) / max(1, len(pods))
    results = [_cost(pod) for pod in pods]
    for pod in pods:
        pod.remove()
    return {"pods": len(pods), "stopped_by": stopped_by, "available_mib_a_pod": round(spent, 1), "runs": results}


def _cost(pod: Pod) -> dict[str, float]:
    """Return what the processes of a pod have resident, by what they are, in MiB."""
    cost: dict[str, float] = {"guest": 0.0}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
            groups = (process / "cgroup").read_text()
            what = _what(words, groups, pod)
            if what:
                guest, rest = _resident(process)
                cost["guest"] += guest
                cost[what] = cost.get(what, 0) + rest
        except (FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            continue
    overhead = sum(mib for name, mib in cost.items() if name != "guest")
    return {
        name: round(mib, 2) for name, mib in {"total": overhead + cost["guest"], "overhead": overhead, **cost}.items()
    }


def _what(words: list[str], groups: str, pod: Pod) -> str | None:
    if "containerd-shim" in words[0] and pod.id in words:
        return "shim"
    if not any(identifier in groups for identifier in (pod.id, *pod.containers)):
        return None
    if "qemu-system" in words[0]:
        return "qemu"
    for verb, name in (("_supervise", "supervisor"), ("_stand-in", "stand-in")):
        if verb in words:
            return name
    return "program"


def _resident(process: Path) -> tuple[float, float]:
    """Return (the guest's RAM, the rest) of a process in MiB of PSS."""
    guest = rest = 0
    ram = False
    for line in (process / "smaps").read_text().splitlines():
        if found := re.match(r"[0-9a-f]+-[0-9a-f]+ (\S+) \S+ \S+ \S+\s*(.*)", line):
            ram = found[2].removesuffix(" (deleted)").endswith("/memory")
        elif line.startswith("Pss:"):
            kib = int(line.split()[1])
            guest, rest = (guest + kib, rest) if ram else (guest, rest + kib)
    return guest / 1024, rest / 1024


def _available() -> float:
    return _memory("MemAvailable")


def _memory(name: str) -> float:
    """Return a line of /proc/meminfo in MiB."""
    return int(re.search(rf"^{name}:\s+(\d+)", Path("/proc/meminfo").read_text(), re.MULTILINE)[1]) / 1024
