"""A TCP connection to a port of the guest's own loopback, carried over one stream of the agent's port.

It is how port-forward reaches a service that listens on localhost only. After the reply to ``dial``, STDIN and STDOUT
carry the bytes, an empty one ends its direction, CREDIT pays for them, and EXIT says that the connection is closed.
"""

from __future__ import annotations

import errno
import os
import selectors
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

import protocol

if TYPE_CHECKING:
    from agent import Agent

MOST = 64
"""Connections that one guest carries at a time."""


class Dial:
    def __init__(self, agent: Agent, stream: int, port: int, closed: Callable[[], None]):
        self.agent, self.stream, self.closed = agent, stream, closed
        self.targets = [(socket.AF_INET, ("127.0.0.1", port)), (socket.AF_INET6, ("::1", port))]
        self.connection: socket.socket | None = None
        self.connected = False
        self.input = bytearray()
        self.input_ended = self.output_ended = self.shut = False
        self.window = protocol.WINDOW

    def frame(self, kind: int, payload: bytes) -> None:
        """Take what the host sends after its call."""
        if kind == protocol.STDIN:
            self.input += payload
            self.input_ended = self.input_ended or not payload
        elif kind == protocol.CREDIT:
            self.window += protocol.credit_of(payload)
        elif kind == protocol.HANGUP:
            self._close()
            return
        if self.connected:
            self._ready(selectors.EVENT_WRITE)

    def start(self) -> None:
        """Connect to the next address; whether it works is told when the socket becomes writable."""
        family, address = self.targets.pop(0)
        self.connection = socket.socket(family)
        self.connection.setblocking(False)
        error = self.connection.connect_ex(address)
        if error in (0, errno.EINPROGRESS):
            self.agent._watch(self.connection.fileno(), selectors.EVENT_WRITE, self._connecting)
        else:
            self._failed(error)

    def _failed(self, error: int) -> None:
        self.connection.close()
        if self.targets:
            self.start()
            return
        self.connection = None
        self.agent._reply(self.stream, error=f"localhost in the guest: {os.strerror(error)}")
        self.closed()

    def _connecting(self, _: int) -> None:
        self.agent._forget(self.connection.fileno())
        if error := self.connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._failed(error)
            return
        self.connected = True
        self.agent._reply(self.stream)
        self._ready(selectors.EVENT_WRITE)

    def _ready(self, events: int) -> None:
        """Move what can be moved now, and wait for what cannot."""
        try:
            if events & selectors.EVENT_READ:
                self._read()
            self._write()
        except BlockingIOError:
            pass
        except OSError:
            self._end()
            return
        if self.shut and self.output_ended:
            self._end()
            return
        self.agent._forget(self.connection.fileno())
        wanted = selectors.EVENT_READ if self.window > 0 and not self.output_ended else 0
        wanted |= selectors.EVENT_WRITE if self.input else 0
        if wanted:
            self.agent._watch(self.connection.fileno(), wanted, self._ready)

    def _read(self) -> None:
        data = self.connection.recv(min(self.window, protocol.CHUNK))
        self.window -= len(data)
        self.output_ended = not data
        self.agent._send(protocol.frame(protocol.STDOUT, self.stream, data))

    def _write(self) -> None:
        while self.input:
            count = self.connection.send(self.input[:65536])
            del self.input[:count]
            self.agent._send(protocol.credit(self.stream, count))
        if self.input_ended and not self.shut:
            self.connection.shutdown(socket.SHUT_WR)
            self.shut = True

    def _end(self) -> None:
        self.agent._send(protocol.message(protocol.EXIT, self.stream, {"code": 0}))
        self._close()

    def _close(self) -> None:
        if self.connection:
            self.agent._forget(self.connection.fileno())
            self.connection.close()
        self.closed()
