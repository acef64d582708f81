"""`casemate-pod run`, the program of casemate-pod@NAME.service: the runner of one pod.

A host has one a pod, so whatever this imports is held in memory fifty times; the other commands are in cli.py.
"""

import gc
import json
import logging
import os
import signal
import sys
from typing import NoReturn

from . import manifest, settings
from .cri import Cri
from .runner import Runner

INVALID = 2  # the exit code for what cannot be meant; the unit does not restart the runner then


def main(arguments: list[str]) -> NoReturn:
    """Run the pod that `arguments` name (a manifest file, or the name of a declared pod) until a signal ends us."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    logging.root.handlers[0].setFormatter(_Journal())
    pod = _find(arguments[0])
    values = settings.load()
    cri = _UnbrokenCri(values.socket)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, cri.end)
    runner = Runner(pod, cri, values)
    gc.collect()
    gc.freeze()
    runner.run()


def _find(argument: str) -> manifest.Pod:
    """The pod that is meant. Exits, having logged why, where there is none that can be run.

    Read and checked in another process: what that takes is several megabytes, which this one would keep for ever.
    """
    ours, theirs = os.pipe()
    if (child := os.fork()) == 0:
        os._exit(_tell(argument, theirs))
    os.close(theirs)
    with os.fdopen(ours) as answer:
        said = answer.read()
    if code := os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        sys.exit(code if code > 0 else 1)
    return manifest.Pod(*json.loads(said))


def _tell(argument: str, descriptor: int) -> int:
    try:
        pod = manifest.find(argument)
        with os.fdopen(descriptor, "w") as answer:
            json.dump([pod.manifest, pod.source, pod.default_handler], answer)
    except manifest.ManifestError as error:
        logging.error("%s", error)
        return INVALID
    except Exception:
        logging.exception("the manifest could not be read")
        return 1
    return 0


class _UnbrokenCri(Cri):
    """A client that ends its process on a signal, though never amid a call that the engine would leave half-done.

    Nothing else is waited for: the next runner adopts whatever there is, just as after SIGKILL.
    """

    _unbroken = _ending = False

    def call(self, method: str, deadline: float = 30, /, **fields):
        if method not in ("CreateContainer", "StartContainer"):
            return super().call(method, deadline, **fields)
        self._unbroken = True
        try:
            return super().call(method, deadline, **fields)
        finally:
            self._unbroken = False
            if self._ending:
                os._exit(0)

    def end(self, _signal: int, _frame: object) -> None:
        """Handle a signal."""
        self._ending = True
        if not self._unbroken:
            os._exit(0)


class _Journal(logging.Formatter):
    """Lines with their priority, where they go to the journal."""

    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        if "JOURNAL_STREAM" not in os.environ:
            return text
        priority = 3 if record.levelno >= logging.ERROR else 4 if record.levelno >= logging.WARNING else 6
        return "\n".join(f"<{priority}>{line}" for line in text.splitlines())
