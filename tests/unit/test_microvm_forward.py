"""Port-forward from end to end, without a machine in between: the host's forwarder and the guest's dialler."""

import itertools
import selectors
import socket
import sys
import threading
from pathlib import Path

import pytest

from appliance.node.microvm import forward, packets, protocol

MICROVM = Path(forward.__file__).parent


@pytest.fixture
def dial_module(monkeypatch):
    """The guest's module, which finds protocol.py beside it there."""
    monkeypatch.syspath_prepend(str(MICROVM))
    monkeypatch.syspath_prepend(str(MICROVM / "guest"))
    yield __import__("dial")
    for name in ("dial", "protocol"):
        sys.modules.pop(name, None)


class Loop:
    """What a dialler needs of the agent: its loop and its port."""

    def __init__(self, port: socket.socket):
        self.port, self.selector, self.running = port, selectors.DefaultSelector(), True

    def _watch(self, fd, events, handler):
        self.selector.register(fd, events, handler)

    def _forget(self, fd):
        if fd in self.selector.get_map():
            self.selector.unregister(fd)

    def _send(self, data):
        self.port.sendall(data)

    def _reply(self, stream, **content):
        self._send(protocol.message(protocol.REPLY, stream, {"ok": "error" not in content} | content))

    def serve(self, dial):
        decoder = protocol.Decoder(protocol.FROM_HOST)

        def from_host(_):
            for kind, _stream, payload in decoder.feed(self.port.recv(65536)):
                dial.frame(kind, payload)

        self._watch(self.port.fileno(), selectors.EVENT_READ, from_host)
        dial.start()
        while self.running:
            for key, events in self.selector.select(0.1):
                key.data(events)


@pytest.fixture
def through(dial_module):
    """A function that connects to a port through forwarder and dialler: (the client's socket, the thread's result)."""
    loops, threads = [], []

    def start(port):
        client, theirs = socket.socketpair()
        link, agent_end = socket.socketpair()
        loop = Loop(agent_end)
        loops.append(loop)
        result = {}

        def stop():
            loop.running = False

        def carry():
            result["whole"] = forward.carry(theirs, link)
            theirs.close()

        dial = dial_module.Dial(loop, 0, port, stop)
        threads.extend(threading.Thread(target=t, daemon=True) for t in (lambda: loop.serve(dial), carry))
        for thread in threads[-2:]:
            thread.start()
        client.settimeout(20)
        return client, threads[-1], result

    yield start
    for loop in loops:
        loop.running = False
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()


def server(family, address, handler):
    """A TCP server for one connection; returns its port."""
    listening = socket.socket(family)
    listening.bind((address, 0))
    listening.listen()

    def serve():
        connection, _ = listening.accept()
        with connection, listening:
            handler(connection)

    threading.Thread(target=serve, daemon=True).start()
    return listening.getsockname()[1]


def whole(connection):
    return b"".join(iter(lambda: connection.recv(65536), b""))


@pytest.mark.parametrize(("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_megabytes_go_both_ways_past_the_window_and_an_end_of_input_is_passed_on(through, family, address):
    payload = bytes(itertools.islice(itertools.cycle(range(251)), 3_000_000))
    client, _, _ = through(server(family, address, lambda c: c.sendall(whole(c)[::-1])))
    threading.Thread(target=lambda: (client.sendall(payload), client.shutdown(socket.SHUT_WR)), daemon=True).start()
    assert whole(client) == payload[::-1]


def test_a_server_that_ends_first_is_seen_and_the_rest_can_still_be_sent(through):
    received = []
    done = threading.Event()

    def say_and_listen(connection):
        connection.sendall(b"bye")
        connection.shutdown(socket.SHUT_WR)
        received.append(whole(connection))
        done.set()

    client, thread, result = through(server(socket.AF_INET, "127.0.0.1", say_and_listen))
    assert whole(client) == b"bye"
    client.sendall(b"more")
    client.shutdown(socket.SHUT_WR)
    assert done.wait(20) and received == [b"more"]
    thread.join(20)
    assert result == {"whole": True}


def test_a_port_where_nobody_listens_is_no_clean_end(through):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    client, thread, result = through(port)
    assert whole(client) == b""
    thread.join(20)
    assert result == {"whole": False}


def test_the_link_local_address_is_the_one_that_linux_makes():
    assert str(packets.link_local("ae:71:05:72:c3:dd")) == "fe80::ac71:5ff:fe72:c3dd"
