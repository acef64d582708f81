"""Bring a guest to the point where its agent answers: a cold boot, or a template restored copy-on-write.

Used by the supervisor in a pod's jail, and on the host to make templates.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import time

from . import protocol
from .qemu import Machine, NoAnswer, Qmp, socket_pair
from .settings import RuntimeFailure


class GuestEnded(RuntimeFailure):
    """The guest ended, which is not what a slow one does."""


class BrokenTemplate(RuntimeFailure):
    """QEMU refused this template, or ended over it."""


class Guest:
    """A running QEMU; `console` is a non-blocking pipe with what the guest and QEMU print."""

    def __init__(
        self, process: subprocess.Popen, agent: socket.socket, qmp_socket: socket.socket, console: int
    ) -> None:
        self.process, self.agent, self.qmp_socket, self.console = process, agent, qmp_socket, console
        self.printed = bytearray()
        self.decoder = protocol.Decoder(protocol.FROM_GUEST)

    def call(self, op: str, deadline: float, **arguments: object) -> dict:
        """Call the agent and return its reply, before anybody else talks to it.

        `deadline` is a time.monotonic() value. Raises RuntimeFailure, with the console's last lines, when the guest
        ends or is silent.
        """
        self.agent.sendall(protocol.call(0, op, **arguments))
        while True:
            if not self.wait(deadline, self.agent):
                raise RuntimeFailure(f"the guest did not answer in time; it printed: {self.last_words()}")
            data = b""
            with contextlib.suppress(ConnectionResetError):
                data = self.agent.recv(65536)
            if not data:
                self.read_console()
                raise GuestEnded(f"the guest ended before it answered; it printed: {self.last_words()}")
            try:
                for kind, _, payload in self.decoder.feed(data):
                    if kind == protocol.REPLY:
                        reply = protocol.reply_of(payload)
                        if not reply["ok"]:
                            raise RuntimeFailure(f"the guest's agent refuses {op}: {reply['error']}")
                        return reply
            except protocol.ProtocolError as error:
                raise RuntimeFailure(f"the guest's agent does not speak our protocol: {error}") from None

    def wait(self, deadline: float, *sockets: socket.socket) -> bool:
        """Wait until one of `sockets` is readable, collecting what is printed. False when the time is over."""
        poll = select.poll()
        poll.register(self.console, select.POLLIN)
        for one in sockets:
            poll.register(one, select.POLLIN)
        while (left := deadline - time.monotonic()) > 0:
            ready = {fd for fd, _ in poll.poll(left * 1000)}
            if self.console in ready and not self.read_console():
                poll.unregister(self.console)
                if not sockets:
                    return True
            if ready - {self.console}:
                return True
        return False

    def read_console(self) -> bool:
        """Collect what was printed, the last 16 KiB of it; False when QEMU has closed its output."""
        try:
            data = os.read(self.console, 65536)
        except BlockingIOError:
            return True
        self.printed += data
        del self.printed[:-16384]
        return bool(data)

    def last_words(self) -> str:
        lines = self.printed.decode(errors="replace").split("\n")
        return " | ".join(line.strip() for line in lines[-8:] if line.strip()) or "nothing"

    def was_killed(self) -> bool:
        """Tell whether QEMU has got a SIGKILL: from somebody, or for want of memory."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.process.wait(1) == -signal.SIGKILL
        return False

    def end(self) -> None:
        """Kill QEMU and close what belongs to it."""
        self.process.kill()
        self.process.wait()
        self.agent.close()
        self.qmp_socket.close()
        os.close(self.console)


def launch(machine: Machine, prefix: tuple[str, ...] = ()) -> Guest:
    """Start QEMU with `machine` (its descriptors are made here); `prefix` is put before its command line."""
    agent, agent_theirs = socket_pair()
    qmp, qmp_theirs = socket_pair()
    console, console_theirs = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    os.set_blocking(console_theirs, True)
    machine = machine._replace(agent_fd=agent_theirs.fileno(), qmp_fd=qmp_theirs.fileno())
    try:
        process = subprocess.Popen(
            [*prefix, *machine.argv()],
            stdin=subprocess.DEVNULL,
            stdout=console_theirs,
            stderr=console_theirs,
            pass_fds=(agent_theirs.fileno(), qmp_theirs.fileno()),
        )
    except FileNotFoundError as error:
        raise RuntimeFailure(f"cannot start QEMU: {error}; deploy installs it (microvm_packages)") from None
    finally:
        for theirs in (agent_theirs, qmp_theirs):
            theirs.close()
        os.close(console_theirs)
    return Guest(process, agent, qmp, console)


def restore(guest: Guest, device_state: str) -> None:
    """Load the saved devices into a QEMU started with ``incoming`` and let the guest run.

    Raises RuntimeFailure when that fails, and the caller then boots cold: BrokenTemplate unless QEMU is silent.
    """
    try:
        qmp = Qmp(guest.qmp_socket)
        with open(device_state, "rb") as file:
            qmp.command("getfd", fd=file.fileno(), fdname="state")
        qmp.migration("fd:state", incoming=True)
        qmp.command("cont")
    except (RuntimeFailure, OSError) as error:
        guest.read_console()
        kind = NoAnswer if isinstance(error, NoAnswer) else BrokenTemplate
        raise kind(f"{error}; QEMU printed: {guest.last_words()}") from None
