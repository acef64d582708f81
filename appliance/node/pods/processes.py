"""Waiting for the end of a pod's processes, so that nobody has to ask the engine all the time."""

from __future__ import annotations

import json
import os
import select
from typing import TYPE_CHECKING

from .cri_model import CriError

if TYPE_CHECKING:
    from .cri import Cri


class Processes:
    """The main processes of a pod's sandbox and of its running containers, each known by its id."""

    def __init__(self, cri: Cri):
        self._cri = cri
        self._open: dict[str, int] = {}  # descriptors of processes (pidfd), by id
        self._ended: set[str] = set()

    def watch(self, sandbox_id: str, container_ids: set[str]) -> bool:
        """Watch the processes of these and of no others.

        False where the engine has to be asked soon: it does not tell which they are, or has not noticed an end yet.
        """
        wanted = {sandbox_id, *container_ids}
        for identifier in self._open.keys() - wanted:
            os.close(self._open.pop(identifier))
        self._ended &= wanted
        for identifier in wanted - self._open.keys() - self._ended:
            try:
                pid = self._pid(identifier, identifier == sandbox_id)
                self._open[identifier] = os.pidfd_open(pid)
            except (CriError, OSError, KeyError, ValueError):
                return False
        return not self._ended

    def wait(self, seconds: float) -> None:
        """Return when one of them ends, or after `seconds`."""
        poll = select.poll()
        names = {descriptor: identifier for identifier, descriptor in self._open.items()}
        for descriptor in names:
            poll.register(descriptor, select.POLLIN)
        for descriptor, _ in poll.poll(max(0.0, seconds) * 1000):
            os.close(self._open.pop(names[descriptor]))
            self._ended.add(names[descriptor])

    def _pid(self, identifier: str, is_sandbox: bool) -> int:
        if is_sandbox:
            info = self._cri.call("PodSandboxStatus", pod_sandbox_id=identifier, verbose=True).info
        else:
            info = self._cri.call("ContainerStatus", container_id=identifier, verbose=True).info
        pid = int(json.loads(info["info"])["pid"])
        if pid <= 0:
            raise ValueError(pid)
        return pid
