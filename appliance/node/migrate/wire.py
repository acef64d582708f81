"""What goes over a line: frames, each one byte that says its kind, four that say its length, and so many bytes.

A line that ends, or is silent, is told from data that ends: DATA is followed by END only where all of it was sent.
"""

from __future__ import annotations

import os
import select
import struct
from typing import BinaryIO

COMMAND, DATA, END, PING = b"C", b"D", b"E", b"P"
PING_SECONDS = 5
SILENCE_SECONDS = 30  # without a ping: the line is dead, though nobody may have closed it
CHUNK = 1 << 20  # bytes
_HEAD = struct.Struct(">cI")
_LONGEST = 64 << 20


class LineBroken(Exception):
    """Nothing more comes over this line; the message says how that was seen."""


def write(stream: BinaryIO, kind: bytes, payload: bytes = b"") -> None:
    """Send one frame. Raises OSError where nobody is at the other end."""
    stream.write(_HEAD.pack(kind, len(payload)))
    stream.write(payload)
    stream.flush()


def read(descriptor: int, silence: float | None = None) -> tuple[bytes, bytes]:
    """The next frame: its kind and its payload. Raises LineBroken at the end, or when it is silent for so long."""
    kind, length = _HEAD.unpack(_exactly(descriptor, _HEAD.size, silence))
    if kind not in (COMMAND, DATA, END, PING) or length > _LONGEST:
        raise LineBroken(f"what came is no frame: {kind!r}, {length} bytes")
    return kind, _exactly(descriptor, length, silence)


def _exactly(descriptor: int, count: int, silence: float | None) -> bytes:
    parts = bytearray()
    while len(parts) < count:
        if silence is not None and not select.select([descriptor], [], [], silence)[0]:
            raise LineBroken(f"nothing was heard for {silence:g} s")
        part = os.read(descriptor, count - len(parts))
        if not part:
            raise LineBroken("the other end is gone")
        parts += part
    return bytes(parts)
