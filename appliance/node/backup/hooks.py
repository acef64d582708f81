"""What pods want done right before and right after the moment at which their volumes are saved.

Annotations of a pod, as Velero's users know them under other names: `io.casemate.backup/before` and `/after`, each a
JSON list, the command; `/container`, by default the first; `/timeout` in seconds, 30; `/on-error`, `fail` (the backup
does not happen) or `continue`; `/order`, a number, 0: the lower come first, and after it in the opposite order.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator

from appliance.node.pods.manifest import Pod

from .settings import BackupError

PREFIX = "io.casemate.backup/"
_SECONDS = 30


@contextlib.contextmanager
def around(pods: list[Pod], report: Callable[[str], None]) -> Iterator[Callable[[], None]]:
    """Run the hooks before; those after when what this gives is called, or at the end. Raises BackupError."""
    wanting = [pod for pod in pods if _annotations(pod)]
    wanting.sort(key=lambda pod: (int(_get(pod, "order", "0")), pod.name))
    begun: list[Pod] = []

    def over() -> None:
        while begun:
            _run(begun.pop(), "after", report)

    try:
        for pod in wanting:
            begun.append(pod)
            _run(pod, "before", report)
        yield over
    finally:
        over()


def _run(pod: Pod, when: str, report: Callable[[str], None]) -> None:
    command = _get(pod, when, "")
    if not command:
        return
    report(f"pod {pod.name}: hook {when}")
    trouble = _exec(pod, command)
    if not trouble:
        return
    words = f"pod {pod.name}: its hook {when} the backup failed: {trouble}"
    if when == "before" and _get(pod, "on-error", "fail") == "fail":
        raise BackupError(f"{words}; put it right, or set {PREFIX}on-error: continue")
    report(words)


def _exec(pod: Pod, command: str) -> str:
    """What went wrong, in words; "" for nothing."""
    from appliance.node.pods import settings
    from appliance.node.pods.cri import Cri
    from appliance.node.pods.cri_model import CriError, state_name
    from appliance.node.pods.translate import CONTAINER_LABEL, NAME_LABEL

    try:
        argv = json.loads(command)
        seconds = int(_get(pod, "timeout", str(_SECONDS)))
    except ValueError as error:
        return f"its annotation is no JSON list: {error}"
    name = _get(pod, "container", pod.containers[0]["name"])
    cri = Cri(settings.load().socket)
    try:
        running = [
            one for one in cri.containers()
            if one.labels.get(NAME_LABEL) == pod.name and one.labels.get(CONTAINER_LABEL) == name
            and state_name(one) == "running"
        ]  # fmt: skip
        if not running:
            return f"container {name} does not run"
        done = cri.call("ExecSync", seconds + 5, container_id=running[0].id, cmd=argv, timeout=seconds)
    except CriError as error:
        return str(error)
    return (
        f"exit code {done.exit_code}: {done.stderr.decode(errors='replace').strip()[-200:]}" if done.exit_code else ""
    )


def _annotations(pod: Pod) -> dict[str, str]:
    given = pod.manifest["metadata"].get("annotations") or {}
    return {key: value for key, value in given.items() if key.startswith(PREFIX)}


def _get(pod: Pod, name: str, default: str) -> str:
    return _annotations(pod).get(PREFIX + name, default)
