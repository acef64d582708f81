"""Exec, Attach and PortForward as an engine's streaming server serves them: programs with live input and output.

    session = streaming.execute(cri, container_id, ["cat"], stdin=True)
    code, out, err = session.communicate(b"hello")

`Session` is one Exec or Attach; `Forward` one connection to a port in a pod; `interact` joins a session to this
process's own input, output and terminal.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import selectors
import signal
import struct
import termios
import tty
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from .spdy import Connection, StreamingError

if TYPE_CHECKING:
    from .cri import Cri

STDIN, STDOUT, STDERR = 0, 1, 2
_MOST_QUEUED = 1 << 20  # bytes of input that wait for the server
_CHUNK = 1 << 16
_LOOK_MS = 10


def execute(cri: Cri, container_id: str, command: list[str], *, stdin: bool = False, terminal: bool = False) -> Session:
    """Start `command` in a running container. Raises CriError, StreamingError."""
    url = cri.call(
        "Exec", container_id=container_id, cmd=command, tty=terminal, stdin=stdin, stdout=True, stderr=not terminal
    ).url
    return Session(url, stdin=stdin, terminal=terminal)


def attach(cri: Cri, container_id: str, *, stdin: bool = False, terminal: bool = False) -> Session:
    """Join the program of a running container; `terminal` must be as the container has it.

    Raises CriError, StreamingError.
    """
    url = cri.call("Attach", container_id=container_id, tty=terminal, stdin=stdin, stdout=True, stderr=not terminal).url
    return Session(url, stdin=stdin, terminal=terminal)


class _Conversation:
    """Streams of one connection: one for input, some for output, one for errors."""

    def __init__(self, url: str, protocol: str):
        self.done = False
        self._connection = Connection(url, protocol)
        self._input: int | None = None
        self._outputs: dict[int, int] = {}
        self._open: set[int] = set()
        self._error = 0
        self._said = b""  # on the error stream

    def write(self, data: bytes) -> None:
        """Queue input."""
        self._connection.send(self._input, data)

    def end_input(self) -> None:
        """Say that there is no more input; a terminal has no such end (see ^D)."""
        self._connection.send(self._input, b"", end=True)

    def fileno(self) -> int:
        return self._connection.fileno()

    @property
    def events(self) -> int:
        """What to wait for (of selectors) before the next `step`."""
        return selectors.EVENT_READ | (selectors.EVENT_WRITE if self.queued else 0)

    @property
    def queued(self) -> int:
        """Bytes that wait to be sent."""
        return len(self._connection.outgoing)

    def step(self) -> list[tuple[int, bytes]]:
        """Send and receive what is possible now; return the output that came: (STDOUT or STDERR, bytes)."""
        output = []
        with contextlib.suppress(OSError):  # the server has gone: what it still said comes first
            self._connection.flush()
        for number, data, ended in self._connection.receive():
            if number == self._error:
                self._said += data
            elif data and number in self._outputs:
                output.append((self._outputs[number], data))
            if ended:
                self._open.discard(number)
        if self._connection.ended or not self._open:
            self.close()
        return output

    def output(self, seconds: float | None = None) -> Iterator[tuple[int, bytes]]:
        """Yield output as it comes, until its end or until nothing comes for `seconds`."""
        with selectors.PollSelector() as selector:
            if not self.done:
                selector.register(self, self.events)
            while not self.done:
                selector.modify(self, self.events)
                if not selector.select(seconds):
                    return
                yield from self.step()

    def close(self) -> None:
        """Leave; what the engine does with a running program then is its own affair."""
        if not self.done:
            self.done = True
            self._connection.close()


class Session(_Conversation):
    """The input and output of one program."""

    def __init__(self, url: str, *, stdin: bool, terminal: bool):
        super().__init__(url, "v4.channel.k8s.io")
        # The server waits for all of these before it starts the program.
        self._error = self._connection.open(streamtype="error")
        self._input = self._connection.open(streamtype="stdin") if stdin else None
        self._outputs = {self._connection.open(streamtype="stdout"): STDOUT}
        if not terminal:
            self._outputs[self._connection.open(streamtype="stderr")] = STDERR
        self._resize = self._connection.open(streamtype="resize") if terminal else None
        self._open = {self._error, *self._outputs}

    def resize(self, rows: int, columns: int) -> None:
        """Tell the program's terminal its size."""
        self._connection.send(self._resize, json.dumps({"Width": columns, "Height": rows}).encode())

    def result(self) -> int:
        """The program's exit code, when `done`. Raises StreamingError when the server told none."""
        if not self._said:
            raise StreamingError("the engine's streaming server ended before the program did")
        try:
            status = json.loads(self._said)  # a v1.Status of Kubernetes
        except ValueError:
            raise StreamingError(self._said.decode("utf-8", "replace")) from None
        if status.get("status") == "Success":
            return 0
        for cause in (status.get("details") or {}).get("causes") or []:
            if cause.get("reason") == "ExitCode":
                return int(cause["message"])
        raise StreamingError(status.get("message") or self._said.decode("utf-8", "replace"))

    def communicate(self, data: bytes | None = None, seconds: float = 60) -> tuple[int | None, bytes, bytes]:
        """Send all input and its end, take all output: (exit code, stdout, stderr).

        The exit code is None when nothing came for `seconds`; the program still runs then. Raises StreamingError.
        """
        if data is not None:
            self.write(data)
            self.end_input()
        taken = {STDOUT: b"", STDERR: b""}
        for channel, piece in self.output(seconds):
            taken[channel] += piece
        return self.result() if self.done else None, taken[STDOUT], taken[STDERR]


class Forward(_Conversation):
    """One connection to a TCP port in a pod."""

    def __init__(self, cri: Cri, sandbox_id: str, port: int):
        """Connect. Raises CriError, StreamingError."""
        super().__init__(cri.call("PortForward", pod_sandbox_id=sandbox_id, port=[port]).url, "portforward.k8s.io")
        self._error = self._connection.open(streamtype="error", port=str(port), requestid="0")
        self._connection.send(self._error, b"", end=True)
        self._input = self._connection.open(streamtype="data", port=str(port), requestid="0")
        self._outputs = {self._input: STDOUT}
        self._open = {self._error, self._input}

    def communicate(self, data: bytes, seconds: float = 60) -> bytes:
        """Send `data`, return what the other side sends until its end or until nothing comes for `seconds`.

        Raises StreamingError with the engine's words, for example when nothing listens there.
        """
        self.write(data)
        answer = b"".join(piece for _, piece in self.output(seconds))
        self.close()
        if self._said:
            raise StreamingError(self._said.decode("utf-8", "replace"))
        return answer


def interact(session: Session, *, stdin: bool, terminal: bool, look: Callable[[], bool] = lambda: True) -> int:
    """Carry this process's input, output and window size until the program ends; return its exit code.

    `look` is called again and again until it returns True.
    Raises StreamingError, and BrokenPipeError when nobody reads the output any more.
    """
    poll = select.poll()
    with _raw_terminal(terminal), _resizes(session, terminal) as wake:
        if wake is not None:
            poll.register(wake, select.POLLIN)
        while not session.done:
            poll.register(session, select.POLLIN | (select.POLLOUT if session.queued else 0))
            poll.register(STDOUT, 0)  # to hear that its reader has gone
            if stdin and session.queued < _MOST_QUEUED:
                poll.register(STDIN, select.POLLIN)
            else:
                with contextlib.suppress(KeyError):
                    poll.unregister(STDIN)
            ready = dict(poll.poll(None if look() else _LOOK_MS))
            if wake in ready:
                os.read(wake, 4096)
                _send_size(session)
            if STDIN in ready:
                data = b""
                with contextlib.suppress(OSError):  # a terminal that has been hung up
                    data = os.read(STDIN, _CHUNK)
                session.write(data)
                if not data:
                    session.end_input()
                    stdin = False
            try:
                for channel, piece in session.step():
                    while piece:
                        piece = piece[os.write(channel, piece) :]
            except OSError as error:
                raise BrokenPipeError from error
            if STDOUT in ready:
                raise BrokenPipeError
    return session.result()


@contextlib.contextmanager
def _raw_terminal(terminal: bool) -> Iterator[None]:
    """Hand every key to the program, where our input is a terminal."""
    if not (terminal and os.isatty(STDIN)):
        yield
        return
    before = termios.tcgetattr(STDIN)
    tty.setraw(STDIN, termios.TCSADRAIN)  # what was typed early is kept
    try:
        yield
    finally:
        with contextlib.suppress(termios.error):  # it has been hung up
            termios.tcsetattr(STDIN, termios.TCSADRAIN, before)


@contextlib.contextmanager
def _resizes(session: Session, terminal: bool) -> Iterator[int | None]:
    """Yield a descriptor that can be read when the window's size changes."""
    if not (terminal and os.isatty(STDIN)):
        yield None
        return
    _send_size(session)
    wake, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    former = signal.signal(signal.SIGWINCH, lambda *_: None)
    former_wake = signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    try:
        yield wake
    finally:
        signal.set_wakeup_fd(former_wake)
        signal.signal(signal.SIGWINCH, former)
        os.close(wake)
        os.close(wake_write)


def _send_size(session: Session) -> None:
    rows, columns, _, _ = struct.unpack("HHHH", fcntl.ioctl(STDIN, termios.TIOCGWINSZ, bytes(8)))
    if rows and columns:
        session.resize(rows, columns)
