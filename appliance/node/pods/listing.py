"""Looking at pods: all that the engine has, joined with what their runners say, and waiting for them."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import events, state, units
from .cri_model import sandbox_ready, state_name
from .manifest import Pod
from .settings import Settings
from .translate import CONTAINER_LABEL, log_directory, managed_labels

if TYPE_CHECKING:
    from .cri import Cri

_LOG_TAIL_LINES = 8


def list_pods(cri: "Cri", settings: Settings) -> list[dict[str, Any]]:
    """Every pod, ours and others', ordered by name.

    Keys: name, namespace, runtime, ready, state, ip, restarts, sandbox_id, reason, exit_codes (of each container's last
    end) and events (see events.shown). A pod whose runner has no sandbox yet is listed with an empty sandbox_id. Raises
    CriError.
    """
    states = state.read_all()
    containers: dict[str, list] = {}
    for container in cri.containers():
        containers.setdefault(container.pod_sandbox_id, []).append(container)
    pods: dict[tuple[str, str], dict[str, Any]] = {}
    for sandbox in cri.sandboxes():  # newest first: a pod's former sandboxes do not count
        key = (sandbox.metadata.namespace, sandbox.metadata.name)
        if key in pods:
            continue
        ours = managed_labels().items() <= dict(sandbox.labels).items()
        known = states.get(sandbox.metadata.name) if ours else None
        pods[key] = _row(cri, settings, sandbox, containers.get(sandbox.id, []), known)
    for known in states.values():
        pods.setdefault((known.namespace, known.name), _row_without_sandbox(known))
    return [pods[key] for key in sorted(pods)]


def wait(pods: dict[str, Pod], seconds: float) -> dict[str, state.PodState | None]:
    """Wait until every pod is ready or has finished; the ones that are not when the time is over, by name.

    A pod that failed for good, or whose runner gave up, is not waited for.
    """
    deadline = time.monotonic() + seconds
    while True:
        states = state.read_all()
        missing = {}
        hopeless = 0
        for name, pod in pods.items():
            known = states.get(name)
            if known is None or known.hash != pod.hash:
                missing[name] = None
            elif not known.settled:
                missing[name] = known
                hopeless += known.state == "failed"
        if not missing or time.monotonic() >= deadline or hopeless == len(missing):
            return missing
        time.sleep(0.5)


def explain(pod: Pod, known: state.PodState | None) -> str:
    """Why a pod is not ready, with the last lines of its containers' logs."""
    if known is None:
        return f"pod {pod.name}: its runner has not taken it up; see: journalctl -u {units.unit(pod.name)}"
    lines = [f"pod {pod.name}: {known.state}: {known.reason or 'not ready'}"]
    for container in pod.init_containers + pod.containers:
        tail = log_tail(log_directory(pod) / container["name"])
        lines += [f"  {container['name']}: {line}" for line in tail]
    return "\n".join(lines)


def log_tail(directory: Path, count: int = _LOG_TAIL_LINES) -> list[str]:
    """The last lines of a container's newest log, without CRI's time stamps and tags."""
    logs = sorted(directory.glob("*.log"), key=lambda path: path.stat().st_mtime)
    if not logs:
        return []
    with logs[-1].open("rb") as handle:
        handle.seek(max(0, logs[-1].stat().st_size - 16384))
        lines = handle.read().decode("utf-8", "replace").splitlines()[-count:]
    return [line.split(" ", 3)[-1] for line in lines]


def _row(cri: "Cri", settings: Settings, sandbox, containers: list, known: state.PodState | None) -> dict[str, Any]:
    latest: dict[str, Any] = {}
    for container in containers:
        latest.setdefault(container.labels.get(CONTAINER_LABEL, container.id), container)
    up = sandbox_ready(sandbox)
    row = {
        "name": sandbox.metadata.name,
        "namespace": sandbox.metadata.namespace,
        "runtime": sandbox.runtime_handler or settings.default_handler,
        "ready": up and bool(latest) and all(state_name(c) == "running" for c in latest.values()),
        "state": "running" if up else "unknown",
        "ip": known.ip if known else cri.address(sandbox.id) if up else "",
        "restarts": sum(container.metadata.attempt for container in latest.values()),
        "sandbox_id": sandbox.id,
        "reason": "" if up else "its sandbox is down",
    }
    if known:
        row |= {"ready": known.ready and up, "state": known.state, "reason": known.reason}
    return row | _told(known)


def _row_without_sandbox(known: state.PodState) -> dict[str, Any]:
    row = {key: getattr(known, key) for key in ("name", "namespace", "ready", "state", "ip", "reason")}
    return row | {"runtime": "", "restarts": sum(known.restarts.values()), "sandbox_id": ""} | _told(known)


def _told(known: state.PodState | None) -> dict[str, Any]:
    return {"exit_codes": known.exit_codes if known else {}, "events": events.shown(known.events) if known else []}
