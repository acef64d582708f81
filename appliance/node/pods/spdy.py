"""The part of SPDY/3.1 that a client of an engine's streaming server needs: a few streams on one connection.

CRI's streaming servers also speak WebSocket, but only protocols in which a client cannot end its input while it still
reads output (kubernetes/kubernetes#89899), so that `exec -i POD -- tar -x < FILE` would never end.

Nothing here waits: `outgoing` is what is still to be sent, so that one thread can serve both directions.
"""

from __future__ import annotations

import socket
import struct
import zlib
from urllib.parse import urlsplit

SYN_STREAM, RST_STREAM, PING = 1, 3, 6
FIN = 0x01
_CONTROL = 0x80030000  # the first word of a control frame of version 3, but for its type
_MOST = 0xFFFF  # bytes of payload in one frame
_CONNECT_SECONDS = 30


class StreamingError(Exception):
    """The streaming server refused or broke the conversation; the text says what it did."""


class Connection:
    """One upgraded connection to a streaming server."""

    def __init__(self, url: str, protocol: str):
        """Connect to `url`, which the engine's answer to Exec, Attach or PortForward gave, and agree on `protocol`.

        Raises StreamingError.
        """
        parts = urlsplit(url)
        if parts.scheme != "http":
            raise StreamingError(f"{url}: only http is spoken here; the engine's setting is enable_tls_streaming")
        try:
            self.socket = socket.create_connection((parts.hostname, parts.port or 80), _CONNECT_SECONDS)
        except OSError as error:
            raise StreamingError(f"the engine's streaming server cannot be reached ({url}: {error})") from None
        self.outgoing = bytearray()
        self.ended = False
        self._incoming = bytearray()
        self._names = zlib.compressobj()
        self._next = 1
        try:
            self._upgrade(parts.netloc, f"{parts.path}?{parts.query}".rstrip("?"), protocol)
        except OSError as error:
            self.close()
            raise StreamingError(f"the engine's streaming server did not answer ({url}: {error})") from None
        self.socket.setblocking(False)

    def _upgrade(self, host: str, path: str, protocol: str) -> None:
        self.socket.sendall(
            f"POST {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n"
            f"X-Stream-Protocol-Version: {protocol}\r\nContent-Length: 0\r\n\r\n".encode()
        )
        while b"\r\n\r\n" not in self._incoming:
            data = self.socket.recv(65536)
            self._incoming += data
            if not data or len(self._incoming) > 1 << 20:
                raise ConnectionError("it answered no HTTP")
        end = self._incoming.index(b"\r\n\r\n") + 4
        head = self._incoming[:end].decode("latin-1")
        if head.split(" ", 2)[1] != "101":
            self.close()
            raise StreamingError(f"the engine's streaming server refused: {' '.join(head.splitlines()[0].split()[1:])}")
        del self._incoming[:end]

    def fileno(self) -> int:
        return self.socket.fileno()

    def open(self, **headers: str) -> int:
        """Open a stream with these headers (their names in lower case); return its number."""
        number, self._next = self._next, self._next + 2
        names = struct.pack("!I", len(headers))
        for text in (part for pair in headers.items() for part in pair):
            names += struct.pack("!I", len(text)) + text.encode()
        packed = self._names.compress(names) + self._names.flush(zlib.Z_SYNC_FLUSH)
        self._control(SYN_STREAM, struct.pack("!IIBB", number, 0, 0, 0) + packed)
        return number

    def send(self, number: int, data: bytes, end: bool = False) -> None:
        """Queue `data` for a stream, and its end."""
        for start in range(0, len(data), _MOST):
            piece = data[start : start + _MOST]
            self.outgoing += struct.pack("!II", number, len(piece)) + piece
        if end:
            self.outgoing += struct.pack("!II", number, FIN << 24)

    def flush(self) -> None:
        """Send what can be sent now. Raises OSError."""
        try:
            while self.outgoing:
                del self.outgoing[: self.socket.send(self.outgoing[: 1 << 18])]
        except BlockingIOError:
            pass

    def receive(self) -> list[tuple[int, bytes, bool]]:
        """What has come for the streams: (number, data, whether the stream ends); sets `ended` with the last of it."""
        try:
            data = self.socket.recv(1 << 16)
            self.ended = not data
            self._incoming += data
        except BlockingIOError:
            pass
        except OSError:
            self.ended = True
        found = []
        while len(self._incoming) >= 8:
            first, second = struct.unpack_from("!II", self._incoming)
            length = second & 0xFFFFFF
            if len(self._incoming) < 8 + length:
                break
            payload = bytes(self._incoming[8 : 8 + length])
            del self._incoming[: 8 + length]
            if not first >> 31:
                found.append((first, payload, bool(second >> 24 & FIN)))
            elif first & 0xFFFF == RST_STREAM:
                found.append((struct.unpack_from("!I", payload)[0] & 0x7FFFFFFF, b"", True))
            elif first & 0xFFFF == PING:
                self._control(PING, payload)
        return found

    def _control(self, kind: int, payload: bytes) -> None:
        self.outgoing += struct.pack("!II", _CONTROL | kind, len(payload)) + payload

    def close(self) -> None:
        self.socket.close()
