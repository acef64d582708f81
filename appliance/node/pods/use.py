"""What pods use and what they cost: containers as they see themselves, and the whole pod as the host sees it.

In a microVM these differ: what a container uses is the guest's to say, and the host pays for QEMU, too. Elsewhere
both come from the same control groups.
"""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .cri_model import CriError, state_name
from .translate import CONTAINER_LABEL

if TYPE_CHECKING:
    from .cri import Cri

CGROUPS = Path("/sys/fs/cgroup")
MICROVM = "microvm"  # the handler whose containers are in a guest
_APART_SECONDS = 1.0
_AT_ONCE = 8


def measure(cri: Cri, rows: list[dict[str, Any]]) -> None:
    """Add to each pod of `listing.list_pods` that is up what it uses; takes a second, in which the processors are seen.

    "host": what the pod costs, and "containers", by name: {"cpu": processors in use, "cpu_seconds" so far,
    "memory_bytes", "working_set_bytes"}. Both are null where nobody can say.
    """
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        up = [row for row in rows if row["sandbox_id"]]
        first = list(pool.map(lambda row: _look(cri, row), up))
        time.sleep(_APART_SECONDS)
        second = list(pool.map(lambda row: _look(cri, row), up))
    for row in rows:
        row |= {"host": None, "containers": None}
    for row, before, after in zip(up, first, second, strict=True):
        if after["host"]:
            row["host"] = _rate(before["host"], after["host"])
        if after["containers"] is not None:
            known = before["containers"] or {}
            row["containers"] = {name: _rate(known.get(name), use) for name, use in after["containers"].items()}


def _rate(before: dict | None, after: dict) -> dict[str, Any]:
    use = {"cpu": 0.0, "cpu_seconds": round(after["cpu_ns"] / 1e9, 3)}
    if before:
        use["cpu"] = round(max(0, after["cpu_ns"] - before["cpu_ns"]) / max(1, after["at_ns"] - before["at_ns"]), 3)
    return use | {key: after[key] for key in ("memory_bytes", "working_set_bytes")}


def _look(cri: Cri, row: dict[str, Any]) -> dict[str, Any]:
    """One reading of one pod: each use with the moment it was taken (at_ns, monotonic)."""
    found: dict[str, Any] = {"host": None, "containers": None}
    try:
        running = [one for one in cri.containers(row["sandbox_id"]) if state_name(one) == "running"]
        found["host"] = _host(cri, row["sandbox_id"], [one.id for one in running])
        uses = _guest(row["sandbox_id"]) if row["runtime"] == MICROVM else _engine(cri, row["sandbox_id"])
    except CriError:
        return found
    if uses is not None:
        names = {one.id: one.labels.get(CONTAINER_LABEL) or one.metadata.name for one in running}
        found["containers"] = {names[key]: use for key, use in uses.items() if key in names}
    return found


def _guest(sandbox_id: str) -> dict[str, dict] | None:
    """What the guest says of its containers, by id; None when it does not answer."""
    from appliance.node.microvm.sandboxes import Sandbox
    from appliance.node.microvm.settings import RuntimeFailure

    try:
        containers = Sandbox(sandbox_id).stats()["containers"]
    except RuntimeFailure:
        return None
    now = time.monotonic_ns()
    return {key: use | {"at_ns": now} for key, use in containers.items()}


def _engine(cri: Cri, sandbox_id: str) -> dict[str, dict]:
    """What the engine says of a sandbox's containers, by id."""
    listed = cri.call("ListContainerStats", filter={"pod_sandbox_id": sandbox_id}).stats
    now = time.monotonic_ns()
    return {
        one.attributes.id: {
            "cpu_ns": one.cpu.usage_core_nano_seconds.value,
            "memory_bytes": one.memory.usage_bytes.value or one.memory.working_set_bytes.value,
            "working_set_bytes": one.memory.working_set_bytes.value,
            "at_ns": now,
        }
        for one in listed
    }


def _host(cri: Cri, sandbox_id: str, container_ids: list[str]) -> dict | None:
    """The sum over the control groups of a sandbox and its running containers: a guest is in its sandbox's."""
    answers = [cri.call("PodSandboxStatus", pod_sandbox_id=sandbox_id, verbose=True)]
    answers += [cri.call("ContainerStatus", container_id=one, verbose=True) for one in container_ids]
    total = {"cpu_ns": 0, "memory_bytes": 0, "working_set_bytes": 0}
    try:
        for pid in [json.loads(answer.info["info"])["pid"] for answer in answers]:
            for key, value in group_use(pid).items():
                total[key] += value
    except (OSError, KeyError, ValueError):
        return None  # it has ended meanwhile
    return total | {"at_ns": time.monotonic_ns()}


def group_use(pid: int) -> dict[str, int]:
    """What the control group of a process uses: cpu_ns, memory_bytes, working_set_bytes. Raises OSError."""
    paths = {}
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        paths |= dict.fromkeys(controllers.split(","), path)
    if "memory" in paths:  # cgroup v1
        memory = CGROUPS / "memory" / paths["memory"][1:]
        held = int((memory / "memory.usage_in_bytes").read_text())
        idle = _field(memory / "memory.stat", "total_inactive_file")
        cpu_ns = int((CGROUPS / "cpuacct" / paths["cpuacct"][1:] / "cpuacct.usage").read_text())
    else:
        group = CGROUPS / paths[""][1:]
        held = int((group / "memory.current").read_text())
        idle = _field(group / "memory.stat", "inactive_file")
        cpu_ns = _field(group / "cpu.stat", "usage_usec") * 1000
    return {"cpu_ns": cpu_ns, "memory_bytes": held, "working_set_bytes": max(0, held - idle)}


def _field(path: Path, name: str) -> int:
    return next(int(line.split()[1]) for line in path.read_text().splitlines() if line.split()[0] == name)
