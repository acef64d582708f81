"""The supervisor's router, between a made-up agent and real clients."""

import json
import os
import select
import socket
import subprocess
import threading
import time

import pytest

from appliance.node.microvm import boot, protocol, supervisor


@pytest.fixture
def pod(tmp_path):
    """A running router: (a function that connects a client, the agent's end, the console's end, the thread)."""
    agent, agent_end = socket.socketpair()
    console, console_end = os.pipe2(os.O_NONBLOCK)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "sock"))
    listener.listen()
    ports = socket.create_server(("127.0.0.1", 0))
    process = subprocess.Popen(["true"])
    process.wait()
    router = supervisor.Router(boot.Guest(process, agent, agent, console), listener, ports)
    thread = threading.Thread(target=router.serve, daemon=True)
    thread.start()

    def connect():
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(5)
        client.connect(str(tmp_path / "sock"))
        return client

    agent_end.settimeout(5)
    yield connect, agent_end, console_end, thread
    agent_end.close()
    thread.join(5)
    ports.close()
    assert not thread.is_alive()


def frames(connection, count, decoder=None):
    decoder = decoder or protocol.Decoder(protocol.FROM_HOST | protocol.FROM_GUEST)
    found = []
    while len(found) < count:
        data = connection.recv(65536)
        assert data, "closed"
        found += decoder.feed(data)
    return found


def test_each_client_is_a_stream_of_its_own_and_gets_its_own_answers(pod):
    connect, agent, _, _ = pod
    one, two = connect(), connect()
    one.sendall(protocol.message(protocol.CALL, 0, {"op": "one"}))
    ((_, first, _),) = frames(agent, 1)
    two.sendall(protocol.message(protocol.CALL, 0, {"op": "two"}))
    ((_, second, payload),) = frames(agent, 1)
    assert first != second and b"two" in payload
    agent.sendall(
        protocol.frame(protocol.STDOUT, second, b"for two") + protocol.frame(protocol.STDOUT, first, b"for one")
    )
    assert frames(one, 1)[0][2] == b"for one"
    assert frames(two, 1)[0][2] == b"for two"


def test_a_client_that_goes_away_is_hung_up_in_the_guest(pod):
    connect, agent, _, _ = pod
    client = connect()
    client.sendall(protocol.message(protocol.CALL, 0, {"op": "attach"}))
    ((_, stream, _),) = frames(agent, 1)
    client.close()
    assert frames(agent, 1) == [(protocol.HANGUP, stream, b"")]


def test_a_client_that_talks_nonsense_is_dropped_and_the_others_go_on(pod):
    connect, agent, _, _ = pod
    bad, good = connect(), connect()
    bad.sendall(b"GET / HTTP/1.1\r\n\r\n")
    assert bad.recv(1) == b""
    good.sendall(protocol.message(protocol.CALL, 0, {"op": "fine"}))
    kinds = [kind for kind, _, _ in frames(agent, 2)]
    assert sorted(kinds) == [protocol.CALL, protocol.HANGUP]


def test_the_end_of_the_guest_ends_every_client_without_an_exit_code(pod):
    connect, agent, console, thread = pod
    client = connect()
    client.sendall(protocol.message(protocol.CALL, 0, {"op": "attach"}))
    frames(agent, 1)
    os.close(console)  # QEMU has gone
    thread.join(5)
    assert client.recv(100) == b""


def test_a_guest_that_floods_one_client_loses_that_client_only(pod):
    connect, agent, _, _ = pod
    client, other = connect(), connect()
    client.sendall(protocol.message(protocol.CALL, 0, {"op": "attach"}))
    ((_, stream, _),) = frames(agent, 1)
    other.sendall(protocol.message(protocol.CALL, 0, {"op": "other"}))
    ((_, second, _),) = frames(agent, 1)
    piece = protocol.frame(protocol.STDOUT, stream, bytes(protocol.CHUNK))
    for _ in range(2 * supervisor.MOST_QUEUED // len(piece) + 2):
        agent.sendall(piece)
    agent.sendall(protocol.message(protocol.REPLY, second, {"ok": True}))
    assert frames(other, 1)[0][0] == protocol.REPLY
    assert frames(agent, 1) == [(protocol.HANGUP, stream, b"")]


def test_a_guest_that_does_not_read_stops_its_clients_and_no_queue_grows(pod):
    connect, agent, _, _ = pod
    client = connect()
    client.setblocking(False)
    piece, sent = protocol.frame(protocol.STDIN, 0, bytes(protocol.CHUNK)), 0
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and select.select([], [client], [], 2)[1]:
        sent += client.send(piece[sent % len(piece) :])
    assert supervisor.MOST_QUEUED < sent < 2 * supervisor.MOST_QUEUED
    received = 0
    while received < sent // len(piece) * len(piece):  # it reads at last, and nothing was lost
        received += len(agent.recv(1 << 20))


def test_a_client_cannot_send_what_is_the_supervisors_or_the_guests_to_say(pod):
    connect, agent, _, _ = pod
    for kind, payload in ((protocol.HANGUP, b""), (protocol.EXIT, b'{"code": 0}')):
        client = connect()
        client.sendall(protocol.frame(kind, 0, payload))
        assert client.recv(1) == b""
        assert frames(agent, 1)[0][0] == protocol.HANGUP  # the supervisor's own


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(supervisor, "TELL_TIME_S", 0.01)


def test_the_guest_is_told_the_time_again_and_again_and_its_replies_are_nobodys(impatient, pod):
    connect, agent, _, _ = pod
    for _ in range(2):
        kind, stream, payload = frames(agent, 1)[0]
        told = json.loads(payload)
        assert (kind, stream, told["op"]) == (protocol.CALL, 0, "clock")
        assert abs(told["time_ns"] - time.time_ns()) < 60e9
        agent.sendall(protocol.message(protocol.REPLY, 0, {"ok": True}))
    connect().sendall(protocol.call(0, "ping"))
