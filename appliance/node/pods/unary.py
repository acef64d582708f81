"""gRPC calls with one request and one reply, each on a connection of its own.

grpcio does far more, and would cost every runner more memory than all the rest of it.
"""

from __future__ import annotations

import socket
import struct
import time
from urllib.parse import unquote

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ConnectionTerminated, DataReceived, ResponseReceived, StreamEnded, StreamReset, TrailersReceived
from h2.exceptions import ProtocolError

_CODES = (
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
    "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
    "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
)  # fmt: skip
_STREAM = 1
_CHUNK = 1 << 16


class GrpcError(Exception):
    """The call failed: `code` is gRPC's name of the status (NOT_FOUND, UNAVAILABLE ...), `details` says it in words."""

    def __init__(self, code: str, details: str):
        self.code, self.details = code, details
        super().__init__(f"{details} ({code})")


def call(address: str | tuple[str, int], path: str, request: bytes, seconds: float) -> bytes:
    """Send `request` to the method at `path` (/package.Service/Method) and return the reply, both serialised messages.

    `address` is a Unix socket's path, or host and port. Raises GrpcError, DEADLINE_EXCEEDED after `seconds`.
    """
    deadline = time.monotonic() + seconds
    try:
        with _connect(address, seconds) as link:
            return _converse(link, path, request, deadline)
    except TimeoutError:
        raise GrpcError("DEADLINE_EXCEEDED", f"no answer within {seconds:g} s") from None
    except (OSError, ProtocolError) as error:
        raise GrpcError("UNAVAILABLE", str(error) or type(error).__name__) from None


def _connect(address: str | tuple[str, int], seconds: float) -> socket.socket:
    if isinstance(address, tuple):
        return socket.create_connection(address, seconds)
    link = socket.socket(socket.AF_UNIX)
    try:
        link.settimeout(seconds)
        link.connect(address)
    except BaseException:
        link.close()
        raise
    return link


def _converse(link: socket.socket, path: str, request: bytes, deadline: float) -> bytes:
    http = H2Connection(H2Configuration(header_encoding="utf-8"))
    http.initiate_connection()
    left_ms = max(1, int((deadline - time.monotonic()) * 1000))
    http.send_headers(
        _STREAM,
        [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "localhost"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
            ("grpc-timeout", f"{left_ms}m"),
        ],
    )
    unsent = struct.pack(">BI", 0, len(request)) + request
    reply, headers = b"", {}
    while True:
        unsent = _queue(http, unsent)
        link.settimeout(max(0.001, deadline - time.monotonic()))
        link.sendall(http.data_to_send())
        data = link.recv(_CHUNK)
        if not data:
            raise GrpcError("UNAVAILABLE", "the server closed the connection")
        for event in http.receive_data(data):
            if isinstance(event, DataReceived):
                reply += event.data
                http.acknowledge_received_data(event.flow_controlled_length, _STREAM)
            elif isinstance(event, (ResponseReceived, TrailersReceived)):
                headers |= dict(event.headers)
            elif isinstance(event, StreamEnded):
                return _result(headers, reply)
            elif isinstance(event, (StreamReset, ConnectionTerminated)):
                raise GrpcError("UNAVAILABLE", f"the server ended the call (HTTP/2 error {event.error_code})")


def _queue(http: H2Connection, unsent: bytes) -> bytes:
    """Hand on as much of the request as the server will take now, and return the rest."""
    # the window may be below zero: a server may make it smaller when it has been used already
    while unsent and (room := min(http.local_flow_control_window(_STREAM), http.max_outbound_frame_size)) > 0:
        piece, unsent = unsent[:room], unsent[room:]
        http.send_data(_STREAM, piece, end_stream=not unsent)
    return unsent


def _result(headers: dict[str, str], reply: bytes) -> bytes:
    status = headers.get("grpc-status")
    if status is None:
        raise GrpcError("UNKNOWN", f"no gRPC server: HTTP status {headers.get(':status')}")
    if status != "0":
        code = _CODES[int(status)] if status.isdigit() and int(status) < len(_CODES) else "UNKNOWN"
        raise GrpcError(code, unquote(headers.get("grpc-message", "")))
    if len(reply) < 5 or reply[0] or struct.unpack(">I", reply[1:5])[0] != len(reply) - 5:
        raise GrpcError("INTERNAL", "the reply is not one uncompressed message")
    return reply[5:]
