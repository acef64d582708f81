"""One end of a migration: it is told what to do over its standard input, and answers on its standard output.

When the line breaks, the process ends at once: what it had begun is undone by what systemd runs after it (undo.py).
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

from . import wire

VERSION = 1
_GONE = 3  # the exit code of a session whose line broke
_AHEAD = 4  # frames that are read before they are used; more would only be held in memory


class MigrationError(Exception):
    """Something that an admin can cure; the text names cause, place and cure."""


class Session:
    """The line to the admin's machine, in the process that it is the standard input and output of."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "wb")
        os.dup2(2, 1)  # what is printed by mistake is no frame
        self._over = False
        self._frames: queue.Queue[tuple[bytes, bytes]] = queue.Queue(_AHEAD)
        threading.Thread(target=self._listen, daemon=True).start()

    def command(self) -> dict[str, Any]:
        """Wait for the next command."""
        kind, payload = self._frames.get()
        if kind != wire.COMMAND:
            raise MigrationError("data came where a command was expected")
        return json.loads(payload)

    def data(self) -> Iterator[bytes]:
        """What is being sent here, to its end. Raises MigrationError where the other end gave up."""
        while True:
            kind, payload = self._frames.get()
            if kind == wire.END:
                return
            if kind != wire.DATA:
                raise MigrationError("what was being sent ended too early")
            yield payload

    def send(self, chunk: bytes) -> None:
        wire.write(self._out, wire.DATA, chunk)

    def end(self) -> None:
        """All of the data was sent."""
        wire.write(self._out, wire.END)

    def tell(self, **answer: object) -> None:
        """Answer: `done` with what came of a command, `error`, or `say`, what is being done."""
        wire.write(self._out, wire.COMMAND, json.dumps(answer).encode())

    def finish(self) -> None:
        """Answer the last command; that the line ends then is as it should be."""
        self._over = True
        self.tell(done=None)

    def _listen(self) -> None:
        try:
            while True:
                kind, payload = wire.read(0, wire.SILENCE_SECONDS)
                if kind != wire.PING:
                    self._frames.put((kind, payload))
        except (wire.LineBroken, OSError) as error:
            with contextlib.suppress(OSError):  # who would read it is gone, too
                print(f"casemate-migrate: {error}", file=sys.stderr, flush=True)
        finally:
            if not self._over:
                os._exit(_GONE)


def serve(session: Session, verbs: dict[str, Callable[..., object]], foreseen: tuple[type[Exception], ...]) -> int:
    """Do what is asked for until `bye`, or until something fails: {"do": VERB, ...its arguments}. The exit code.

    `foreseen` are the errors that have words for an admin.
    """
    session.tell(hello=VERSION)
    while True:
        asked = session.command()
        verb = asked.pop("do")
        if verb == "bye":
            session.finish()
            return 0
        try:
            if verb not in verbs:
                raise MigrationError(f"{verb} is not for an end without --id")
            session.tell(done=verbs[verb](**asked))
        except (MigrationError, *foreseen) as error:
            session.tell(error=str(error))
            return 1
        except Exception as error:
            session.tell(error=f"{verb}: {type(error).__name__}: {error}")
            raise
