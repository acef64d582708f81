"""The gRPC client, against a server of one answer: what it says and what comes of it."""

import contextlib
import socket
import struct
import threading

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, RequestReceived, StreamEnded, WindowUpdated
from h2.settings import SettingCodes

from appliance.node.pods import unary


class Server:
    """Takes one call on a Unix socket and lets `answer(http, send)` reply; `asked` is what it was sent."""

    def __init__(self, path, answer, window=None):
        self.path, self.answer, self.window = str(path), answer, window
        self.asked, self.headers = b"", {}
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        with contextlib.suppress(OSError):  # the answer was to hang up
            self.run()

    def run(self):
        self.link, _ = self.listener.accept()
        self.http = http = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        http.initiate_connection()
        if self.window:
            http.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: self.window})
        self.flush()
        while data := self.link.recv(65536):
            for event in http.receive_data(data):
                if isinstance(event, RequestReceived):
                    self.headers = dict(event.headers)
                elif isinstance(event, DataReceived):
                    self.asked += event.data
                    http.acknowledge_received_data(event.flow_controlled_length, 1)
                elif isinstance(event, StreamEnded):
                    self.answer(self)
                elif isinstance(event, WindowUpdated) and self.unsent:
                    self.send()
            self.flush()

    unsent = b""

    def reply(self, data, trailers=(("grpc-status", "0"),)):
        self.http.send_headers(1, [(":status", "200"), ("content-type", "application/grpc")])
        self.unsent, self.trailers = data, list(trailers)
        self.send()

    def send(self):
        while self.unsent and (room := min(self.http.local_flow_control_window(1), 16384)):
            piece, self.unsent = self.unsent[:room], self.unsent[room:]
            self.http.send_data(1, piece)
        if not self.unsent:
            self.http.send_headers(1, self.trailers, end_stream=True)

    def flush(self):
        self.link.sendall(self.http.data_to_send())


def message(data):
    return struct.pack(">BI", 0, len(data)) + data


def call(tmp_path, answer, request=b"ask", seconds=20, **options):
    server = Server(tmp_path / "sock", answer, **options)
    return server, unary.call(server.path, "/a.B/C", request, seconds)


def test_a_request_and_its_reply_arrive_whole(tmp_path):
    server, reply = call(tmp_path, lambda s: s.reply(message(b"answer")))
    assert (server.asked, reply) == (message(b"ask"), b"answer")
    assert (server.headers[":path"], server.headers["te"]) == ("/a.B/C", "trailers")


@pytest.mark.parametrize("window", [None, 1000, 20_000, 1 << 20])
def test_long_ones_go_through_any_window(tmp_path, window):
    long = bytes(range(256)) * 4096
    server, reply = call(tmp_path, lambda s: s.reply(message(long[::-1])), long, seconds=120, window=window)
    assert (server.asked, reply) == (message(long), long[::-1])


@pytest.mark.parametrize(
    ("answer", "code", "words"),
    [
        (
            lambda s: s.reply(b"", [("grpc-status", "5"), ("grpc-message", "no %22such%22 sandbox")]),
            "NOT_FOUND",
            'no "such" sandbox',
        ),
        (
            lambda s: s.http.send_headers(1, [(":status", "200"), ("grpc-status", "12")], end_stream=True),
            "UNIMPLEMENTED",
            "",
        ),
        (lambda s: s.http.send_headers(1, [(":status", "404")], end_stream=True), "UNKNOWN", "HTTP status 404"),
        (lambda s: s.reply(message(b"x")[:-1]), "INTERNAL", "not one"),
        (lambda s: s.reply(b"\1" + message(b"x")[1:]), "INTERNAL", "uncompressed"),
        (lambda s: s.reply(message(b""), [("grpc-status", "99")]), "UNKNOWN", ""),
        (lambda s: s.http.reset_stream(1, 8), "UNAVAILABLE", "HTTP/2 error"),
        (lambda s: s.link.close(), "UNAVAILABLE", ""),
        (lambda s: (s.link.sendall(b"\0\0\0\x42junk"), s.link.shutdown(socket.SHUT_RDWR)), "UNAVAILABLE", ""),
        (lambda s: s.link.shutdown(socket.SHUT_RDWR), "UNAVAILABLE", ""),
    ],
)
def test_what_is_no_answer_is_an_error_in_grpcs_words(tmp_path, answer, code, words):
    with pytest.raises(unary.GrpcError) as raised:
        call(tmp_path, answer)
    assert (raised.value.code, words in raised.value.details) == (code, True)


def test_a_server_that_says_nothing_is_given_up(tmp_path):
    with pytest.raises(unary.GrpcError) as raised:
        call(tmp_path, lambda s: None, seconds=0.2)
    assert raised.value.code == "DEADLINE_EXCEEDED"


def test_no_server_is_unavailable(tmp_path):
    with pytest.raises(unary.GrpcError, match="UNAVAILABLE"):
        unary.call(str(tmp_path / "none"), "/a.B/C", b"", 5)
