"""Frames between host and guest: what the stand-ins, the supervisor and the guest's agent say to each other.

One frame is a header (type, stream, length of the payload in bytes) and its payload. A *stream* is one
conversation: the supervisor gives each of its clients a number and forwards frames both ways without reading
their payloads. This file is also copied into the guest, so it uses nothing but the standard library.

A conversation starts with one CALL (a JSON object with the key ``op``) and gets one REPLY (``{"ok": true, ...}`` or
``{"error": "..."}``). The call ``attach`` goes on after its reply: STDIN and SIGNAL one way, STDOUT and STDERR
the other, until EXIT. Data is paid for with CREDIT: a sender never has more than WINDOW bytes unpaid, so a slow
reader stops the writer and nobody in between needs an unbounded buffer.

Each side takes the other for an enemy: it accepts only the kinds of frames that come its way, in their lengths, and
checks what JSON says. Whatever else comes is a ProtocolError, after which nothing that this side sends is believed.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator

VERSION = 1
"""Part of every call; raised when a guest and a host of different releases would misunderstand each other."""

CALL, REPLY, STDIN, STDOUT, STDERR, SIGNAL, RESIZE, EXIT, CREDIT, HANGUP = range(1, 11)
FROM_CLIENT = frozenset({CALL, STDIN, SIGNAL, RESIZE, CREDIT})
FROM_HOST = FROM_CLIENT | {HANGUP}
FROM_GUEST = frozenset({REPLY, STDOUT, STDERR, EXIT, CREDIT})

HEADER = struct.Struct("!BII")
CHUNK = 32 * 1024
"""Most bytes of stdin, stdout or stderr in one frame."""
WINDOW = 256 * 1024
"""Most bytes a sender may have sent in one direction of one stream without having been paid credit."""
MAX_MESSAGE = 4 * 1024 * 1024
"""Most bytes of a call or a reply."""
MAX_ERROR = 4096
"""Most characters that are taken of an error."""
LENGTHS = {
    CALL: (2, MAX_MESSAGE), REPLY: (2, MAX_MESSAGE), STDIN: (0, CHUNK), STDOUT: (0, CHUNK), STDERR: (0, CHUNK),
    SIGNAL: (1, 1), RESIZE: (4, 4), EXIT: (2, 1024), CREDIT: (4, 4), HANGUP: (0, 0),
}  # fmt: skip


class ProtocolError(Exception):
    """The other side sent what this protocol does not have."""


def frame(kind: int, stream: int, payload: bytes = b"") -> bytes:
    """Return one frame as bytes."""
    return HEADER.pack(kind, stream, len(payload)) + payload


def message(kind: int, stream: int, content: dict) -> bytes:
    """Return one frame whose payload is `content` as JSON."""
    return frame(kind, stream, json.dumps(content).encode())


def call(stream: int, op: str, **arguments: object) -> bytes:
    """Return the frame that calls `op` of the guest's agent."""
    return message(CALL, stream, {"version": VERSION, "op": op} | arguments)


def content(payload: bytes) -> dict:
    """Return the JSON object of a CALL, a REPLY or an EXIT. Raises ProtocolError when it is none."""
    try:
        found = json.loads(payload.decode())
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"no JSON: {error}") from None
    if not isinstance(found, dict):
        raise ProtocolError("JSON, but no object")
    return found


def reply_of(payload: bytes) -> dict:
    """Return what a REPLY says: {"ok": True, ...} or {"ok": False, "error": printable text, ...}.

    Raises ProtocolError when it says neither.
    """
    reply = content(payload)
    if reply.get("ok") is True:
        return reply
    if reply.get("ok") is not False or not isinstance(reply.get("error"), str):
        raise ProtocolError("a reply that is neither success nor error")
    text = "".join(c if c.isprintable() or c == "\n" else "?" for c in reply["error"][:MAX_ERROR])
    return reply | {"error": text}


def exit_of(payload: bytes) -> dict:
    """Return what an EXIT says, {"code": 0 to 255, ...}. Raises ProtocolError when it has no such code."""
    end = content(payload)
    if type(end.get("code")) is not int or not 0 <= end["code"] <= 255:
        raise ProtocolError("an exit without an exit code")
    return end


def credit(stream: int, count: int) -> bytes:
    """Return the frame that pays for `count` bytes received on `stream`."""
    return frame(CREDIT, stream, struct.pack("!I", count))


def credit_of(payload: bytes) -> int:
    """Return the number of bytes that a CREDIT payload pays for."""
    return struct.unpack("!I", payload)[0]


class Decoder:
    """Cuts a byte stream into frames of the `kinds` that may come from there."""

    def __init__(self, kinds: frozenset[int]) -> None:
        self._kinds = kinds
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[int, int, bytes]]:
        """Take bytes as they came and yield each complete (type, stream, payload).

        Raises ProtocolError when the bytes cannot be frames.
        """
        self._buffer += data
        while len(self._buffer) >= HEADER.size:
            kind, stream, length = HEADER.unpack_from(self._buffer)
            shortest, longest = LENGTHS[kind] if kind in self._kinds else (0, -1)
            if not shortest <= length <= longest:
                raise ProtocolError(f"not a frame that may come here: type {kind}, length {length}")
            end = HEADER.size + length
            if len(self._buffer) < end:
                return
            payload = bytes(self._buffer[HEADER.size : end])
            del self._buffer[:end]
            yield kind, stream, payload
