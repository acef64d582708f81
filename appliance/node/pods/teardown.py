"""Stopping and removing a pod's sandboxes, within its grace period."""

import shutil
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import cgroups, hooks
from .cri_model import CriError, sandbox_ready, state_name
from .translate import GRACE_ANNOTATION, LOG_ROOT, NAME_LABEL, NAMESPACE_LABEL, UID_LABEL, managed_labels

if TYPE_CHECKING:
    from .cri import Cri

# What the engine may take on top of a grace period: killing, unmounting, taking the network down.
_MARGIN_SECONDS = 60
# What containerd answers for a container whose start was cut off, when its caller was killed: it holds the container
# for ended, but keeps its process, which no call of CRI ends then (seen with 1.6).
_UNFINISHED = "FAILED_PRECONDITION"


def remove_sandbox(cri: "Cri", sandbox, with_logs: bool = False) -> None:
    """Stop a sandbox within its grace period and remove it with its pod's control group. Raises CriError."""
    stop_sandbox(cri, sandbox)
    if with_logs:  # before the sandbox, which tells of them
        _remove_logs(sandbox)
    try:
        cri.call("RemovePodSandbox", _MARGIN_SECONDS, pod_sandbox_id=sandbox.id)
    except CriError as error:
        if error.code != _UNFINISHED:
            raise
        for container in cri.containers(sandbox.id):
            remove_container(cri, container.id)
        cri.call("RemovePodSandbox", _MARGIN_SECONDS, pod_sandbox_id=sandbox.id)
    cgroups.remove(sandbox.metadata.name)


def stop_sandbox(cri: "Cri", sandbox) -> None:
    """Stop a sandbox's containers together, each with the pod's grace period, then the sandbox. Raises CriError."""
    stop_containers(cri, sandbox.id, int(sandbox.annotations.get(GRACE_ANNOTATION, "30")))
    cri.call("StopPodSandbox", _MARGIN_SECONDS, pod_sandbox_id=sandbox.id)


def stop_containers(cri: "Cri", sandbox_id: str, grace_seconds: int) -> None:
    """Stop a sandbox's containers together, each within the grace period. Raises CriError."""
    running = [c for c in cri.containers(sandbox_id) if state_name(c) in ("running", "unknown")]
    _at_once(lambda container: end_container(cri, container, grace_seconds), running)


def take_down(cri: "Cri", pod_names: Collection[str]) -> None:
    """Stop pods of ours together, and their runners first, which would start them again. Raises CriError, UnitError.

    Their sandboxes go as well: a pod that only stops has crashed, and starts again after a while that grows.
    """
    from . import units  # not for every runner to hold

    def one(name: str) -> None:
        units.stop(name)
        for sandbox in cri.sandboxes(managed_labels(name)):
            remove_sandbox(cri, sandbox)

    _at_once(one, pod_names)


def stop_all(cri: "Cri") -> None:
    """Stop every running pod, ours and others', before the host goes down. Raises CriError."""
    _at_once(lambda sandbox: stop_sandbox(cri, sandbox), [one for one in cri.sandboxes() if sandbox_ready(one)])


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


def remove_container(cri: "Cri", container_id: str) -> None:
    """Remove a container that has ended. Raises CriError."""
    try:
        cri.call("RemoveContainer", container_id=container_id)
    except CriError as error:
        if error.code != _UNFINISHED:
            raise
        import subprocess  # not for every runner to hold

        argv = ["ctr", "--address", cri.socket, "--namespace", "k8s.io", "tasks", "delete", "--force", container_id]
        subprocess.run(argv, capture_output=True, check=False)
        cri.call("RemoveContainer", container_id=container_id)


def _at_once(do: Callable[[Any], None], items: Collection) -> None:
    """`do` each of the items, all at the same time; raises what the first that failed raised."""
    if len(items) > 1:
        from concurrent.futures import ThreadPoolExecutor  # not for every runner to hold

        with ThreadPoolExecutor(len(items)) as pool:
            list(pool.map(do, items))
    else:
        for item in items:
            do(item)


def _remove_logs(sandbox, root: Path = LOG_ROOT) -> None:
    """Delete the log directory of a sandbox's pod, where it is one of ours."""
    labels = sandbox.labels
    if UID_LABEL in labels:
        path = root / f"{labels[NAMESPACE_LABEL]}_{labels[NAME_LABEL]}_{labels[UID_LABEL]}"
        shutil.rmtree(path, ignore_errors=True)
