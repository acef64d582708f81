"""Joining a running pod from a shell on the host: programs in its containers."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING

from . import streaming
from .cri_model import sandbox_ready, state_name
from .manifest import load_directory
from .names import NoSuchPod, meant
from .translate import CONTAINER_LABEL

if TYPE_CHECKING:
    from .cri import Cri

_GRACE_SECONDS = 2
_LOOK_SECONDS = 30
_LOCK = Path("/run/casemate/exec.lock")


def execute(cri: Cri, pod: str, container: str | None, command: list[str], *, stdin: bool, terminal: bool) -> int:
    """Run a program in a container of a pod, joined to our own input and output; its exit code.

    Raises NoSuchPod, CriError, StreamingError.
    """
    target = find(cri, pod, container)
    program = _Program(cri, target.id)
    session = streaming.execute(cri, target.id, command, stdin=stdin, terminal=terminal)
    # The engine lets a program run on whose caller has gone, for ever if it is a shell.
    return _interact(session, stdin, terminal, program.look, program.end)


def attach(cri: Cri, pod: str, container: str | None, *, stdin: bool) -> int:
    """Join the main program of a container; 0 when it ends. Raises NoSuchPod, CriError, StreamingError."""
    target = find(cri, pod, container)
    info = cri.call("ContainerStatus", container_id=target.id, verbose=True).info
    config = json.loads(info.get("info", "{}")).get("config") or {}
    terminal = bool(config.get("tty"))
    if stdin and not config.get("stdin"):
        raise NoSuchPod(f"container {target.metadata.name} of pod {pod} takes no input: its manifest lacks stdin: true")
    session = streaming.attach(cri, target.id, stdin=stdin, terminal=terminal)
    return _interact(session, stdin, terminal)


def _interact(
    session: streaming.Session, stdin: bool, terminal: bool,
    look: Callable[[], bool] = lambda: True, when_left: Callable[[], None] = lambda: None,
) -> int:  # fmt: skip
    """Carry input and output until the program ends; its exit code, or 128 + n when we are to leave before."""
    for number in (signal.SIGTERM, signal.SIGHUP):  # an exit that puts the terminal back
        signal.signal(number, lambda n, _: sys.exit(128 + n))
    try:
        return streaming.interact(session, stdin=stdin, terminal=terminal, look=look)
    except (KeyboardInterrupt, SystemExit, BrokenPipeError) as reason:
        when_left()
        if isinstance(reason, SystemExit):
            return reason.code
        return 128 + (signal.SIGINT if isinstance(reason, KeyboardInterrupt) else signal.SIGPIPE)


class _Program:
    """The program that an exec is about to start in a container.

    An engine does not tell which process is whose. This one is the child of the container's shim that was not there
    before; from then until it is, nobody else starts a program in that container by `casemate-pod exec`.
    """

    def __init__(self, cri: Cri, container_id: str):
        _LOCK.parent.mkdir(parents=True, exist_ok=True)
        self._lock = _LOCK.open("w")  # for all containers: each has a byte of its own
        fcntl.lockf(self._lock, fcntl.LOCK_EX, 1, int(hashlib.sha256(container_id.encode()).hexdigest()[:15], 16))
        info = cri.call("ContainerStatus", container_id=container_id, verbose=True).info
        main = json.loads(info["info"])["pid"]
        self._group = Path(f"/proc/{main}/cgroup").read_text()
        self._shim = Path(f"/proc/{main}/stat").read_text().rpartition(")")[2].split()[1]
        self._before = self._children()
        self._until = time.monotonic() + _LOOK_SECONDS
        self._process: int | None = None

    def _children(self) -> set[int]:
        found = set()
        for file in Path(f"/proc/{self._shim}/task").glob("*/children"):
            for pid in file.read_text().split():
                with contextlib.suppress(OSError):  # it has ended
                    if Path(f"/proc/{pid}/cgroup").read_text() == self._group:
                        found.add(int(pid))
        return found

    def look(self) -> bool:
        """Tell whether no more need be looked: it was found, or ended before it could be."""
        if self._lock.closed:
            return True
        for pid in self._children() - self._before:
            with contextlib.suppress(ProcessLookupError):
                self._process = os.pidfd_open(pid)
        if self._process is not None or time.monotonic() > self._until:
            self._lock.close()
        return self._lock.closed

    def end(self) -> None:
        """Hang up, then kill."""
        self.look()
        if self._process is None:
            return
        for number in (signal.SIGHUP, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._process, number)
            if select.select([self._process], [], [], _GRACE_SECONDS)[0]:
                return


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
        container = first_declared(sandbox.metadata.name, running)
    if container not in running:
        there = f"these run: {', '.join(running)}" if running else "none runs; see: casemate-pod list"
        raise NoSuchPod(f"pod {pod} has no running container {container or ''}".rstrip() + f"; {there}")
    return running[container]


def runs(cri: Cri, pod: str, container: str) -> bool:
    """Whether this container of a pod runs now. Raises CriError."""
    try:
        find(cri, pod, container)
    except NoSuchPod:
        return False
    return True


def find_sandbox(cri: Cri, pod: str):
    """The newest running sandbox (CRI's PodSandbox) of a pod. Raises NoSuchPod, CriError."""
    up = [item for item in cri.sandboxes() if sandbox_ready(item)]
    wanted = meant(pod, [(item.metadata.namespace, item.metadata.name) for item in up], "runs")
    return next(item for item in up if (item.metadata.namespace, item.metadata.name) == wanted)


def first_declared(pod: str, there: Collection[str]) -> str | None:
    """The container that is meant when none is named: of those that are there, the first that the pod declares."""
    if len(there) > 1 and (declared := load_directory()[0].get(pod)):
        names = [definition["name"] for definition in declared.containers if definition["name"] in there]
        if len(names) > 1:
            print(f"container {names[0]}; there are {', '.join(names)} (-c)", file=sys.stderr)
        if names:
            return names[0]
    return next(iter(there), None)
