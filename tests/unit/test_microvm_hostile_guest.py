"""A guest that answers garbage: whoever asked fails, in time; nothing of it becomes a success."""

import os
import signal
import socket
import threading

import pytest

from appliance.node.microvm import protocol, sandboxes, standin
from appliance.node.microvm.settings import RuntimeFailure

GARBAGE = {
    "no frame": b"HTTP/1.1 200 OK\r\n\r\n",
    "an exit that is no number": protocol.frame(protocol.EXIT, 0, b'{"code": "x"}'),
    "an exit that is too big": protocol.frame(protocol.EXIT, 0, b'{"code": 99999}'),
    "an exit without a code": protocol.frame(protocol.EXIT, 0, b"{}"),
    "a credit that nobody owes": protocol.credit(0, 2**32 - 1),
    "a reply that says nothing": protocol.frame(protocol.REPLY, 0, b"{}"),
    "no UTF-8": protocol.frame(protocol.REPLY, 0, b"\xff\xff"),
    "depth": protocol.frame(protocol.REPLY, 0, b"[" * 200_000),
    "a call": protocol.call(0, "ping"),
    "nothing": b"",
    "half a frame": protocol.frame(protocol.EXIT, 0, b'{"code": 0}')[:-1],
}


@pytest.fixture
def answering(tmp_path):
    """A function: a socket's path where each connection is sent the same bytes and then closed."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "sock"))
    listener.listen()
    answer = []

    def serve():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(65536)
                connection.sendall(answer[0])

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()

    def start(data):
        answer[:] = [data]
        return tmp_path

    yield start
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(5)


@pytest.mark.parametrize("what", GARBAGE)
def test_a_call_of_the_runtime_fails(answering, monkeypatch, what):
    sandbox = sandboxes.Sandbox("x")
    sandbox.ctl = answering(GARBAGE[what])
    with pytest.raises(RuntimeFailure):
        sandbox.call("exec", timeout_s=20)
    sandbox.ctl = answering(protocol.message(protocol.REPLY, 0, {"ok": True, "key": "k"}))
    assert sandbox.call("exec", timeout_s=20)["key"] == "k"


def test_a_call_is_not_kept_waiting_by_a_guest_that_answers_byte_by_byte():
    ours, theirs = socket.socketpair()
    stop = threading.Event()

    def drip():
        for byte in protocol.message(protocol.REPLY, 0, {"ok": True, "text": "x" * 5000}):
            if stop.wait(0.05):
                return
            theirs.sendall(bytes([byte]))

    sandbox = sandboxes.Sandbox("x")
    sandbox._connect = lambda link: os.dup2(ours.fileno(), link.fileno())
    thread = threading.Thread(target=drip, daemon=True)
    thread.start()
    with pytest.raises(RuntimeFailure, match="did not answer"):
        sandbox.call("ping", timeout_s=1)
    stop.set()
    thread.join(5)


def test_a_link_in_place_of_the_socket_is_not_followed(answering, tmp_path):
    directory = answering(protocol.message(protocol.REPLY, 0, {"ok": True}))
    (tmp_path / "jail").mkdir()
    (tmp_path / "jail/sock").symlink_to(directory / "sock")
    sandbox = sandboxes.Sandbox("x")
    sandbox.ctl = tmp_path / "jail"
    with pytest.raises(RuntimeFailure):
        sandbox.call("ping")


@pytest.fixture
def stand_in(answering, monkeypatch):
    """A function: run a stand-in against a guest that sends these bytes; returns its exit code."""
    before = {number: signal.getsignal(number) for number in standin.FORWARDED}

    def run(data):
        monkeypatch.setattr(standin, "SOCKET", str(answering(data) / "sock"))
        return standin.main("key", terminal=False)

    yield run
    signal.set_wakeup_fd(-1)
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("what", GARBAGE)
def test_a_stand_in_fails(stand_in, what):
    assert stand_in(GARBAGE[what]) == standin.GUEST_LOST


def test_a_stand_in_ends_with_the_code_that_the_guest_reports(stand_in):
    reply = protocol.message(protocol.REPLY, 0, {"ok": True})
    for code in (0, 7, 255):
        assert stand_in(reply + protocol.message(protocol.EXIT, 0, {"code": code})) == code
