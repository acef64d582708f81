"""The streaming client against a server of a few lines: frames, ends, refusals."""

import json
import socket
import struct
import threading
import zlib
from collections.abc import Callable

import pytest

from appliance.node.pods.spdy import StreamingError
from appliance.node.pods.streaming import Session

ERROR, STDIN, STDOUT, STDERR = 1, 3, 5, 7
FAILED = {"status": "Failure", "details": {"causes": [{"reason": "ExitCode", "message": "42"}]}}


def served(
    *frames: bytes, head: bytes = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"
) -> tuple[str, Callable[[], bytes]]:
    """Serve one connection with these bytes; its URL, and what gives all that the client sent."""
    listener = socket.create_server(("127.0.0.1", 0))
    heard = bytearray()

    def serve():
        connection, _ = listener.accept()
        with listener, connection:
            heard.extend(connection.recv(65536))
            connection.sendall(head + b"".join(frames))
            connection.shutdown(socket.SHUT_WR)
            while data := connection.recv(65536):
                heard.extend(data)

    server = threading.Thread(target=serve, daemon=True)
    server.start()

    def all_heard() -> bytes:
        server.join(60)
        return bytes(heard)

    return "http://{}:{}/exec/token".format(*listener.getsockname()), all_heard


def data(stream: int, payload: bytes, end: bool = False) -> bytes:
    return struct.pack("!II", stream, end << 24 | len(payload)) + payload


def status(content: dict) -> bytes:
    return data(ERROR, json.dumps(content).encode(), end=True)


def test_outputs_come_apart_with_the_exit_code():
    url, _ = served(data(STDOUT, b"out"), data(STDERR, b"err"), data(STDOUT, b"more", end=True), status(FAILED))
    assert Session(url, stdin=True, terminal=False).communicate() == (42, b"outmore", b"err")


def test_frames_cut_anywhere_are_put_together():
    url, _ = served(data(STDOUT, b"x" * 200_000), status({"status": "Success"}))
    assert Session(url, stdin=True, terminal=False).communicate() == (0, b"x" * 200_000, b"")


def test_streams_are_asked_for_by_name_and_input_ends():
    url, heard = served()
    session = Session(url, stdin=True, terminal=False)
    with pytest.raises(StreamingError):
        session.communicate(b"in")
    frames = heard().partition(b"\r\n\r\n")[2]
    types, inflate = [], zlib.decompressobj()
    while frames and frames[0] & 0x80:
        length = struct.unpack("!I", frames[4:8])[0]
        types.append(inflate.decompress(frames[18 : 8 + length]).split(b"streamtype")[1][4:].decode())
        frames = frames[8 + length :]
    assert types == ["error", "stdin", "stdout", "stderr"]
    assert frames == data(STDIN, b"in") + data(STDIN, b"", end=True)


@pytest.mark.parametrize(
    ("frames", "words"),
    [
        ([data(STDOUT, b"half")], "ended before the program did"),
        ([status({"status": "Failure", "message": "no such container"})], "no such container"),
        ([data(ERROR, b"no JSON", end=True)], "no JSON"),
    ],
)
def test_an_end_without_an_exit_code_is_an_error(frames, words):
    url, _ = served(*frames)
    with pytest.raises(StreamingError, match=words):
        Session(url, stdin=False, terminal=False).communicate()


def test_a_refusal_names_the_servers_reason():
    url, _ = served(head=b"HTTP/1.1 404 Not Found\r\n\r\n")
    with pytest.raises(StreamingError, match="404 Not Found"):
        Session(url, stdin=False, terminal=False)
