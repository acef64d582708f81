"""A line to one end of a migration: commands and data go out on it, answers and data come back."""

import contextlib
import json
import os
import subprocess
import tempfile
import threading
from collections.abc import Callable
from typing import Any

from appliance import reach
from appliance.errors import CasemateError, UnreachableError
from appliance.inventory import Host
from appliance.node.migrate import wire
from appliance.node.migrate.session import VERSION

PROGRAM = "/usr/lib/casemate/bin/casemate-migrate"
_UNDO_SECONDS = 300  # an end that fails stops what it began, within grace periods, before it is gone
_NO_PROGRAM = 127


class EndError(CasemateError):
    """One end could not do what it was asked for; nothing that it had begun is left when its line is closed."""


class Line:
    """A context in which one end of a migration is there: `end` is source or target, of the migration `identity`.

    With an identity the end is a service of its host, which is undone when it ends before its time; without one it only
    answers questions. Raises EndError, UnreachableError.
    """

    def __init__(self, host: Host, end: str, identity: str = "") -> None:
        self.host = host
        self._command = [PROGRAM, end]
        if identity:
            undo = f"/usr/bin/systemd-cat --identifier=casemate-migrate {PROGRAM} undo"
            self._command = [
                "systemd-run", "--quiet", "--pipe", "--wait", "--collect", f"--unit=casemate-migrate-{end}",
                "--property=Type=exec", f"--property=TimeoutStopSec={_UNDO_SECONDS}", f"--property=ExecStopPost={undo}",
                *self._command, "--id", identity,
            ]  # fmt: skip
        self._held = contextlib.ExitStack()
        self._writing = threading.Lock()
        self._over = threading.Event()
        self._greeted = False

    def __enter__(self) -> "Line":
        with contextlib.ExitStack() as held:
            self._said = held.enter_context(tempfile.TemporaryFile())
            self._process = held.enter_context(reach.connect(self.host, *self._command, stderr=self._said))
            held.callback(self._close)
            threading.Thread(target=self._ping, daemon=True).start()
            hello = self._answer()
            if hello.get("hello") != VERSION:
                raise EndError(f"{self.host.name} has another release's programs", cure="appliance deploy, or upgrade")
            self._greeted = True
            self._held = held.pop_all()
        return self

    def __exit__(self, *details: object) -> None:
        self._held.__exit__(*details)

    def ask(self, verb: str, **arguments: object) -> Any:
        """Have the end do something and wait for what came of it."""
        self.tell(verb, **arguments)
        return self.answer()

    def tell(self, verb: str, **arguments: object) -> None:
        """Begin it; `answer` waits."""
        self._write(wire.COMMAND, json.dumps({"do": verb, **arguments}).encode())

    def answer(self) -> Any:
        """What came of what was begun."""
        return self._answer()["done"]

    def _answer(self) -> dict[str, Any]:
        kind, payload = self._read()
        if kind != wire.COMMAND:
            raise EndError(f"{self.host.name}: data came where an answer was expected")
        answer = json.loads(payload)
        if "error" in answer:
            raise EndError(f"{self.host.name}: {answer['error']}")
        return answer

    def _read(self) -> tuple[bytes, bytes]:
        try:
            return wire.read(self._process.stdout.fileno())
        except (wire.LineBroken, OSError):
            raise self._broken() from None

    def _write(self, kind: bytes, payload: bytes = b"") -> None:
        try:
            with self._writing:
                wire.write(self._process.stdin, kind, payload)
        except (OSError, ValueError):  # ValueError: it was closed meanwhile
            if kind == wire.PING:
                return
            self._answer()  # what went wrong, if it could be told
            raise self._broken() from None

    def _broken(self) -> CasemateError:
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_UNDO_SECONDS)
        code = self._process.poll()
        self._said.seek(0)
        words = self._said.read().decode(errors="replace").strip().splitlines()
        if code == _NO_PROGRAM and not self._greeted:
            return EndError(f"{self.host.name}: {PROGRAM} is not there", cure="appliance deploy")
        if "already loaded" in "".join(words[-1:]):  # what systemd says of a unit that is there
            return EndError(f"{self.host.name}: another migration is under way on this host; wait for it")
        text = f"{self.host.name}: the connection broke{f': {words[-1]}' if words else f', exit code {code}'}"
        return (UnreachableError if reach.is_unreachable(self.host, code) else EndError)(text)

    def _ping(self) -> None:
        while not self._over.wait(wire.PING_SECONDS):
            self._write(wire.PING)

    def _close(self) -> None:
        """Say that it is over, and wait until the end has undone what is to be undone."""
        self._over.set()
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        # ssh does not end while what it has to hand on is not taken
        threading.Thread(target=self._take_the_rest, daemon=True).start()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_UNDO_SECONDS)

    def _take_the_rest(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            while os.read(self._process.stdout.fileno(), wire.CHUNK):
                pass


def relay(source: Line, targets: list[Line], moved: Callable[[int], None]) -> int:
    """Pass on the data that `source` was told to send to those that were told to receive it; the number of bytes.

    `moved` hears of each piece's bytes. Raises EndError where it is not the whole, at either end.
    """
    while True:
        kind, payload = source._read()
        if kind == wire.COMMAND:
            raise EndError(f"{source.host.name}: {json.loads(payload).get('error', 'sent nothing')}")
        for target in targets:
            target._write(kind, payload)
        if kind == wire.END:
            break
        moved(len(payload))
    sent = source.answer()
    for target in targets:
        if (received := target.answer()) != sent:
            raise EndError(f"{target.host.name}: {received} bytes came of the {sent} that {source.host.name} sent")
    return sent
