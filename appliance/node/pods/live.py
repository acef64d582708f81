"""Joining a running pod from a shell on the host: programs in its containers."""

from __future__ import annotations

import contextlib
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
from .cri_model import CriError, sandbox_ready, state_name
from .manifest import load_directory
from .translate import CONTAINER_LABEL

if TYPE_CHECKING:
    from .cri import Cri

_GRACE_SECONDS = 2


class NoSuchPod(Exception):
    """There is no such pod, or no such container in it; the text says what there is."""


def execute(cri: Cri, pod: str, container: str | None, command: list[str], *, stdin: bool, terminal: bool) -> int:
    """Run a program in a container of a pod, joined to our own input and output; its exit code.

    Raises NoSuchPod, CriError, StreamingError.
    """
    target = find(cri, pod, container)
    session = streaming.execute(cri, target.id, command, stdin=stdin, terminal=terminal)
    begun = time.clock_gettime(time.CLOCK_BOOTTIME)
    # The engine lets a program run on whose caller has gone, for ever if it is a shell.
    return _interact(session, stdin, terminal, when_left=lambda: _end_program(cri, target.id, begun))


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
    session: streaming.Session, stdin: bool, terminal: bool, when_left: Callable[[], None] = lambda: None
) -> int:
    """Carry input and output until the program ends; its exit code, or 128 + n when we are to leave before."""
    for number in (signal.SIGTERM, signal.SIGHUP):  # an exit that puts the terminal back
        signal.signal(number, lambda n, _: sys.exit(128 + n))
    try:
        return streaming.interact(session, stdin=stdin, terminal=terminal)
    except (KeyboardInterrupt, SystemExit, BrokenPipeError) as reason:
        when_left()
        if isinstance(reason, SystemExit):
            return reason.code
        return 128 + (signal.SIGINT if isinstance(reason, KeyboardInterrupt) else signal.SIGPIPE)


def _end_program(cri: Cri, container_id: str, begun: float) -> None:
    """Hang up, then kill, the program that an exec started; `begun` is when that was asked for (boot time, seconds).

    The engine does not tell which process is whose: it is the first in the container, beside the container's own,
    that the shim has started since.
    """
    with contextlib.suppress(CriError, OSError, IndexError):
        info = cri.call("ContainerStatus", container_id=container_id, verbose=True).info
        main = json.loads(info["info"])["pid"]
        group = Path(f"/proc/{main}/cgroup").read_text()
        shim = int(_stat(main)[1])
        children = Path(f"/proc/{shim}/task").glob("*/children")
        programs = {int(pid) for file in children for pid in file.read_text().split()} - {main}
        inside = [pid for pid in programs if Path(f"/proc/{pid}/cgroup").read_text() == group]
        started = {pid: int(_stat(pid)[19]) / os.sysconf("SC_CLK_TCK") for pid in inside}
        ours = min((pid for pid in inside if started[pid] >= begun - 0.1), key=started.get, default=None)
        if ours is None:
            return
        descriptor = os.pidfd_open(ours)
        for number in (signal.SIGHUP, signal.SIGKILL):
            signal.pidfd_send_signal(descriptor, number)
            if select.select([descriptor], [], [], _GRACE_SECONDS)[0]:
                return


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat that follow the name: state, parent, ..., start time in ticks since boot."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


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


def first_declared(pod: str, there: Collection[str]) -> str | None:
    """The container that is meant when none is named: of those that are there, the first that the pod declares."""
    if len(there) > 1 and (declared := load_directory()[0].get(pod)):
        names = [definition["name"] for definition in declared.containers if definition["name"] in there]
        if len(names) > 1:
            print(f"container {names[0]}; there are {', '.join(names)} (-c)", file=sys.stderr)
        if names:
            return names[0]
    return next(iter(there), None)
