"""What a container wants done right after its start and right before its stop: exec, httpGet, sleep."""

import json
import logging
import time
from typing import TYPE_CHECKING, Any

from . import probes

if TYPE_CHECKING:
    from .cri import Cri

log = logging.getLogger("casemate-pod")

PRE_STOP_ANNOTATION = "io.casemate.pre-stop"
"""On a container: its preStop hook as JSON, ports as numbers and its address in it, since who stops a container may
have no manifest any more."""
_LONGEST_SECONDS = 3600
_LEAST_GRACE_SECONDS = 2  # what is left to SIGTERM when a hook took all of the grace period; Kubernetes' own figure


def resolved(hook: dict[str, Any], container: dict[str, Any], address: str) -> dict[str, Any]:
    """A hook that can be run without the manifest."""
    hook = probes.with_port_numbers(hook, container)
    if hook.get("httpGet") is not None:
        hook = {"httpGet": {**hook["httpGet"], "host": hook["httpGet"].get("host") or address}}
    return hook


def after_start(hook: dict[str, Any], cri: "Cri", container_id: str) -> str:
    """Run a postStart hook, already resolved, to its end; what went wrong, in words, or an empty string."""
    return _run(hook, cri, container_id, _LONGEST_SECONDS)


def before_stop(cri: "Cri", container, grace_seconds: int) -> int:
    """Run the preStop hook of a container as CRI lists it, within its grace period; the seconds that are left of it."""
    hook = container.annotations.get(PRE_STOP_ANNOTATION)
    if not hook or grace_seconds <= 0:
        return grace_seconds
    begin = time.monotonic()
    if wrong := _run(json.loads(hook), cri, container.id, grace_seconds):
        log.warning("preStop of container %s: %s", container.metadata.name, wrong)
    return max(_LEAST_GRACE_SECONDS, round(grace_seconds - (time.monotonic() - begin)))


def _run(hook: dict[str, Any], cri: "Cri", container_id: str, most_seconds: int) -> str:
    if hook.get("sleep") is not None:
        time.sleep(min(hook["sleep"]["seconds"], most_seconds))
        return ""
    if hook.get("httpGet") is not None:
        hook = {"httpGet": {**hook["httpGet"], "any_status": True}}  # that it was answered counts, as in Kubernetes
    return probes.look(hook, most_seconds, cri, container_id, "")
