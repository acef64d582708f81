"""The supervisor: first process of a pod's jail. Starts the guest, then carries frames between it and its clients.

It runs in the pod's namespaces, without root's identity, and knows nothing of containers: each client of its socket
is a stream of the guest's agent. It reads its orders from /run/pod/ctl/orders.json and writes /run/pod/ctl/info.json
when the guest is ready, or /run/pod/ctl/failure with the reason when it will not be.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import selectors
import signal
import socket
import struct
import sys
import time
from pathlib import Path

from . import boot, forward, protocol
from .qemu import Machine
from .settings import RuntimeFailure

CTL = Path("/run/pod/ctl")
SOCKET, ORDERS, INFO, FAILURE = CTL / "sock", CTL / "orders.json", CTL / "info.json", CTL / "failure"

PR_SET_DUMPABLE = 4  # <linux/prctl.h>

MOST_QUEUED = 8 * 1024 * 1024
"""Bytes that may wait for one client. The protocol's windows keep far below; a guest that ignores them loses it.
While as many wait for the guest, nothing is read from its clients."""
TELL_TIME_S = 60
"""How often the guest is told the time: its clock drifts, and stands still while the host sleeps."""
MOST_CLIENTS = 1024


class Client:
    def __init__(self, connection: socket.socket, stream: int) -> None:
        self.connection, self.stream = connection, stream
        self.decoder = protocol.Decoder(protocol.FROM_CLIENT)
        self.outgoing = bytearray()
        self.watched = 0  # which events of its connection the selector reports


def main() -> int:
    """Supervise until the guest ends or a signal asks to stop; return the exit code."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    orders = json.loads(ORDERS.read_text())
    try:
        guest, info = _start(orders)
    except (RuntimeFailure, OSError) as error:
        _publish(FAILURE, str(error))
        return 1
    _give_up_capabilities()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(SOCKET))
    listener.listen(64)
    ports = socket.socket(fileno=forward.LISTENER)
    _publish(INFO, json.dumps(info))
    Router(guest, listener, ports).serve()
    guest.read_console()
    print(f"casemate: the guest has ended; it printed: {guest.last_words()}", file=sys.stderr, flush=True)
    return 1


def _start(orders: dict) -> tuple[boot.Guest, dict]:
    """Restore or boot the guest and give it its identity; return it and what ``info.json`` says of it."""
    begin = time.monotonic()
    deadline = begin + orders["start_deadline_s"]
    machine = Machine(**orders["machine"] | {"shares": tuple(map(tuple, orders["machine"]["shares"]))})
    configure = orders["configure"]
    guest, notes, broken = None, [], False
    if template := orders["template"]:
        try:
            guest = boot.launch(machine._replace(**template["memory"], incoming=True))
            boot.restore(guest, template["devices"])
            reply = _configure(guest, configure, min(deadline, time.monotonic() + orders["restore_deadline_s"]))
        except RuntimeFailure as error:
            # One that is silent may be on a busy host, and one that was killed was in the way; `prepare --verify` tells
            # whether its memory is good.
            broken = isinstance(error, boot.BrokenTemplate | boot.GuestEnded) and not guest.was_killed()
            notes.append(f"the template could not be used, so the guest booted cold: {error}")
            print(f"casemate: {notes[-1]}", file=sys.stderr, flush=True)
            if guest:
                guest.end()
            guest = None
    started_from = "template" if guest else "cold"
    if guest is None:
        guest = boot.launch(machine)
        reply = _configure(guest, configure, deadline)
    info = {
        "guest_kernel": reply["guest_kernel"],
        "accelerator": machine.accelerator,
        "memory_mib": machine.memory_mib,
        "vcpus": machine.vcpus,
        "size": orders["size"],
        "started_from": started_from,
        "started_in_s": round(time.monotonic() - begin, 3),
        "template_broken": broken,
        "template_failed": orders["template_wanted"] and started_from == "cold",
        "notes": orders["notes"] + notes,
    }
    return guest, info


def _configure(guest: boot.Guest, configure: dict, deadline: float) -> dict:
    # The host's randomness and clock are read last, so that they are this guest's and no other's.
    return guest.call("configure", deadline, seed=os.urandom(64).hex(), time_ns=time.time_ns(), **configure)


def _give_up_capabilities() -> None:
    """Leave QEMU's capabilities to QEMU, and keep it out of our memory: from here on, workloads run in the guest."""
    libc = ctypes.CDLL(None, use_errno=True)
    version_3 = struct.pack("Ii", 0x20080522, 0)  # <linux/capability.h>; of this process
    if libc.capset(version_3, bytes(24)) or libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "cannot give up capabilities")


def _publish(path: Path, text: str) -> None:
    new = path.with_name(f".{path.name}")
    new.write_text(text)
    new.replace(path)


class Router:
    """Forwards frames: a client's number is its stream."""

    def __init__(self, guest: boot.Guest, listener: socket.socket, ports: socket.socket):
        self.guest = guest
        self.listener = listener
        self.clients: dict[int, Client] = {}
        self.next_stream = 1
        self.outgoing = bytearray()
        self.congested = False
        self.selector = selectors.DefaultSelector()
        guest.agent.setblocking(False)
        listener.setblocking(False)
        self.selector.register(guest.agent, selectors.EVENT_READ, self._agent)
        self.selector.register(listener, selectors.EVENT_READ, self._accept)
        self.selector.register(guest.console, selectors.EVENT_READ, self._console)
        self.selector.register(ports, selectors.EVENT_READ, lambda _: forward.accept(ports, str(SOCKET)))

    def serve(self) -> None:
        """Forward until the guest ends."""
        tell_time = time.monotonic() + TELL_TIME_S
        with contextlib.suppress(_GuestEnded):
            while True:
                for key, events in self.selector.select(max(0, tell_time - time.monotonic())):
                    key.data(events)
                if time.monotonic() >= tell_time:
                    tell_time = time.monotonic() + TELL_TIME_S
                    # No client has the stream 0, so nobody waits for the reply.
                    self._to_agent(protocol.call(0, "clock", time_ns=time.time_ns()))
        for client in list(self.clients.values()):
            client.connection.close()
        self.listener.close()

    def _console(self, _: int) -> None:
        if not self.guest.read_console():
            raise _GuestEnded

    def _accept(self, _: int) -> None:
        connection, _address = self.listener.accept()
        if len(self.clients) >= MOST_CLIENTS:
            connection.close()
            return
        connection.setblocking(False)
        client = Client(connection, self.next_stream)
        self.next_stream += 1
        self.clients[client.stream] = client
        self._watch(client)

    def _client(self, client: Client, events: int) -> None:
        try:
            if events & selectors.EVENT_READ:
                data = client.connection.recv(65536)
                if not data:
                    raise ConnectionError
                for kind, _, payload in client.decoder.feed(data):
                    self._to_agent(protocol.frame(kind, client.stream, payload))
            self._flush_client(client)
        except BlockingIOError:
            pass
        except (OSError, protocol.ProtocolError):
            self._drop(client)

    def _drop(self, client: Client) -> None:
        if self.clients.pop(client.stream, None):
            if client.watched:
                self.selector.unregister(client.connection)
            client.connection.close()
            self._to_agent(protocol.frame(protocol.HANGUP, client.stream))

    def _flush_client(self, client: Client) -> None:
        with contextlib.suppress(BlockingIOError):
            while client.outgoing:
                del client.outgoing[: client.connection.send(client.outgoing)]
        self._watch(client)

    def _watch(self, client: Client) -> None:
        wanted = (0 if self.congested else selectors.EVENT_READ) | (selectors.EVENT_WRITE if client.outgoing else 0)
        if wanted == client.watched:
            return
        if client.watched:
            self.selector.unregister(client.connection)
        if wanted:
            self.selector.register(client.connection, wanted, lambda events: self._client(client, events))
        client.watched = wanted

    def _agent(self, events: int) -> None:
        try:
            if events & selectors.EVENT_READ:
                data = self.guest.agent.recv(65536)
                if not data:
                    raise _GuestEnded
                for kind, stream, payload in self.guest.decoder.feed(data):
                    self._to_client(kind, stream, payload)
            if self.outgoing:
                self._flush_agent()
        except BlockingIOError:
            pass
        except (OSError, protocol.ProtocolError) as error:
            raise _GuestEnded from error

    def _to_client(self, kind: int, stream: int, payload: bytes) -> None:
        client = self.clients.get(stream)
        if client is None:
            return
        client.outgoing += protocol.frame(kind, stream, payload)
        try:
            self._flush_client(client)
        except OSError:
            self._drop(client)
            return
        if len(client.outgoing) > MOST_QUEUED:
            self._drop(client)

    def _to_agent(self, data: bytes) -> None:
        self.outgoing += data
        self._flush_agent()

    def _flush_agent(self) -> None:
        try:
            while self.outgoing:
                del self.outgoing[: self.guest.agent.send(self.outgoing)]
        except BlockingIOError:
            pass
        except OSError as error:
            raise _GuestEnded from error
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if self.outgoing else 0)
        if self.selector.get_key(self.guest.agent).events != wanted:
            self.selector.modify(self.guest.agent, wanted, self._agent)
        if self.congested != (len(self.outgoing) > MOST_QUEUED):
            self.congested = not self.congested
            for client in self.clients.values():
                self._watch(client)


class _GuestEnded(Exception):
    pass
