"""Joining a running pod from a shell on the host: programs in its containers."""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import TYPE_CHECKING

from . import streaming
from .cri_model import sandbox_ready, state_name
from .manifest import load_directory
from .translate import CONTAINER_LABEL, managed_labels

if TYPE_CHECKING:
    from .cri import Cri


class NoSuchPod(Exception):
    """There is no such pod, or no such container in it; the text says what there is."""


def execute(cri: Cri, pod: str, container: str | None, command: list[str], *, stdin: bool, terminal: bool) -> int:
    """Run a program in a container of a pod, joined to our own input and output; its exit code.

    Raises NoSuchPod, CriError, StreamingError.
    """
    target = find(cri, pod, container)
    session = streaming.execute(cri, target.id, command, stdin=stdin, terminal=terminal)
    return _interact(session, stdin=stdin, terminal=terminal)


def attach(cri: Cri, pod: str, container: str | None, *, stdin: bool) -> int:
    """Join the main program of a container; 0 when it ends. Raises NoSuchPod, CriError, StreamingError."""
    target = find(cri, pod, container)
    info = cri.call("ContainerStatus", container_id=target.id, verbose=True).info
    config = json.loads(info.get("info", "{}")).get("config") or {}
    terminal = bool(config.get("tty"))
    if stdin and not config.get("stdin"):
        raise NoSuchPod(f"container {target.metadata.name} of pod {pod} takes no input: its manifest lacks stdin: true")
    session = streaming.attach(cri, target.id, stdin=stdin, terminal=terminal)
    return _interact(session, stdin=stdin, terminal=terminal)


def _interact(session: streaming.Session, *, stdin: bool, terminal: bool) -> int:
    for number in (signal.SIGTERM, signal.SIGHUP):  # an exit that puts the terminal back
        signal.signal(number, lambda n, _: sys.exit(128 + n))
    try:
        return streaming.interact(session, stdin=stdin, terminal=terminal)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def find(cri: Cri, pod: str, container: str | None):
    """The running container (CRI's Container) of a pod, by its name or by default the first that the pod declares.

    `pod` is NAME or NAMESPACE/NAME. Raises NoSuchPod, CriError.
    """
    sandbox = find_sandbox(cri, pod)
    running = {
        item.labels.get(CONTAINER_LABEL) or item.metadata.name: item
        for item in reversed(cri.containers(sandbox.id))
        if state_name(item) == "running"
    }
    if container is None:
        container = _first(sandbox, running)
    if container not in running:
        there = f"these run: {', '.join(running)}" if running else "none runs; see: casemate-pod list"
        raise NoSuchPod(f"pod {pod} has no running container {container or ''}".rstrip() + f"; {there}")
    return running[container]


def find_sandbox(cri: Cri, pod: str):
    """The newest running sandbox (CRI's PodSandbox) of a pod. Raises NoSuchPod, CriError."""
    namespace, _, name = pod.rpartition("/")
    up = [item for item in cri.sandboxes() if sandbox_ready(item)]
    found = [s for s in up if s.metadata.name == name and namespace in ("", s.metadata.namespace)]
    if len({item.metadata.namespace for item in found}) > 1:
        names = ", ".join(sorted(f"{item.metadata.namespace}/{name}" for item in found))
        raise NoSuchPod(f"there are several pods {name!r}: {names}; say which")
    if not found:
        names = ", ".join(sorted({item.metadata.name for item in up})) or "none"
        raise NoSuchPod(f"no pod {pod!r} runs on {os.uname().nodename}; these do: {names}")
    return found[0]


def _first(sandbox, running: dict) -> str | None:
    """The container that is meant when none is named, as its manifest orders them."""
    if len(running) > 1 and managed_labels().items() <= dict(sandbox.labels).items():
        declared, _ = load_directory()
        if pod := declared.get(sandbox.metadata.name):
            names = [definition["name"] for definition in pod.containers if definition["name"] in running]
            if names and len(names) > 1:
                print(f"container {names[0]} of {', '.join(names)}", file=sys.stderr)
            if names:
                return names[0]
    return next(iter(running), None)
