"""Frames between host and guest: what the stand-ins, the supervisor and the guest's agent say to each other.

One frame is a header (type, stream, length of the payload in bytes) and its payload. A *stream* is one
conversation: the supervisor gives each of its clients a number and forwards frames both ways without reading
their payloads. This file is also copied into the guest, so it uses nothing but the standard library.

A conversation starts with one CALL (a JSON object with the key ``op``) and gets one REPLY (``{"ok": true, ...}`` or
``{"error": "..."}``). The call ``attach`` goes on after its reply: STDIN and SIGNAL one way, STDOUT and STDERR
the other, until EXIT. Data is paid for with CREDIT: a sender never has more than WINDOW bytes unpaid, so a slow
reader stops the writer and nobody in between needs an unbounded buffer.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator

CALL, REPLY, STDIN, STDOUT, STDERR, SIGNAL, RESIZE, EXIT, CREDIT, HANGUP = range(1, 11)

HEADER = struct.Struct("!BII")
CHUNK = 32 * 1024
"""Most bytes of stdin, stdout or stderr in one frame."""
WINDOW = 256 * 1024
"""Most bytes a sender may have sent in one direction of one stream without having been paid credit."""
MAX_PAYLOAD = 4 * 1024 * 1024
"""A longer payload means that the other side does not speak this protocol."""


class ProtocolError(Exception):
    """The other side sent something that is no frame."""


def frame(kind: int, stream: int, payload: bytes = b"") -> bytes:
    """Return one frame as bytes."""
    return HEADER.pack(kind, stream, len(payload)) + payload


def message(kind: int, stream: int, content: dict) -> bytes:
    """Return one frame whose payload is `content` as JSON."""
    return frame(kind, stream, json.dumps(content).encode())


def credit(stream: int, count: int) -> bytes:
    """Return the frame that pays for `count` bytes received on `stream`."""
    return frame(CREDIT, stream, struct.pack("!I", count))


def credit_of(payload: bytes) -> int:
    """Return the number of bytes that a CREDIT payload pays for."""
    return struct.unpack("!I", payload)[0]


class Decoder:
    """Cuts a byte stream into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[int, int, bytes]]:
        """Take bytes as they came and yield each complete (type, stream, payload).

        Raises ProtocolError when the bytes cannot be frames.
        """
        self._buffer += data
        while len(self._buffer) >= HEADER.size:
            kind, stream, length = HEADER.unpack_from(self._buffer)
            if not CALL <= kind <= HANGUP or length > MAX_PAYLOAD:
                raise ProtocolError(f"not a frame: type {kind}, length {length}")
            end = HEADER.size + length
            if len(self._buffer) < end:
                return
            payload = bytes(self._buffer[HEADER.size : end])
            del self._buffer[:end]
            yield kind, stream, payload
