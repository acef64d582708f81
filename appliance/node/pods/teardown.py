"""Stopping and removing a pod's sandboxes, within its grace period."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from . import cgroups, hooks
from .cri_model import CriError, sandbox_ready, state_name
from .translate import GRACE_ANNOTATION, LOG_ROOT, NAME_LABEL, NAMESPACE_LABEL, UID_LABEL

if TYPE_CHECKING:
    from .cri import Cri

# What the engine may take on top of a grace period: killing, unmounting, taking the network down.
_MARGIN_SECONDS = 60


def remove_sandbox(cri: "Cri", sandbox) -> None:
    """Stop a sandbox within its grace period and remove it with its pod's control group. Raises CriError."""
    stop_sandbox(cri, sandbox)
    cri.call("RemovePodSandbox", _MARGIN_SECONDS, pod_sandbox_id=sandbox.id)
    cgroups.remove(sandbox.metadata.name)


def stop_sandbox(cri: "Cri", sandbox) -> None:
    """Stop a sandbox's containers together, each with the pod's grace period, then the sandbox. Raises CriError."""
    stop_containers(cri, sandbox.id, int(sandbox.annotations.get(GRACE_ANNOTATION, "30")))
    cri.call("StopPodSandbox", _MARGIN_SECONDS, pod_sandbox_id=sandbox.id)


def stop_containers(cri: "Cri", sandbox_id: str, grace_seconds: int) -> None:
    """Stop a sandbox's containers together, each within the grace period. Raises CriError."""
    running = [c for c in cri.containers(sandbox_id) if state_name(c) in ("running", "unknown")]
    if running:
        with ThreadPoolExecutor(len(running)) as pool:
            list(pool.map(lambda container: end_container(cri, container, grace_seconds), running))


def stop_all(cri: "Cri") -> None:
    """Stop every running pod, ours and others', before the host goes down. Raises CriError."""
    up = [sandbox for sandbox in cri.sandboxes() if sandbox_ready(sandbox)]
    if up:
        with ThreadPoolExecutor(len(up)) as pool:
            list(pool.map(lambda sandbox: stop_sandbox(cri, sandbox), up))


def end_container(cri: "Cri", container, grace_seconds: int) -> None:
    """Stop one container as CRI lists it, its preStop hook and the rest within the grace period. Raises CriError."""
    stop_container(cri, container.id, hooks.before_stop(cri, container, grace_seconds))


def stop_container(cri: "Cri", container_id: str, grace_seconds: int) -> None:
    """Stop one container: SIGTERM, and SIGKILL after the grace period. One that is gone is fine."""
    try:
        cri.call("StopContainer", grace_seconds + _MARGIN_SECONDS, container_id=container_id, timeout=grace_seconds)
    except CriError as error:
        if error.code != "NOT_FOUND":
            raise


def remove_logs(sandbox, root: Path = LOG_ROOT) -> None:
    """Delete the log directory of a sandbox's pod."""
    labels = sandbox.labels
    shutil.rmtree(root / f"{labels[NAMESPACE_LABEL]}_{labels[NAME_LABEL]}_{labels[UID_LABEL]}", ignore_errors=True)
