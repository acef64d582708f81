"""Port-forward: what connects to the loopback of the pod's network namespace reaches that of the guest.

Engines forward a port by connecting to localhost in that namespace, where nothing of a microVM listens. A rule there
(packets.py) leads every such connection here; the agent connects to the same port in the guest, and the bytes go over
a stream of the supervisor's socket like a stand-in's. The listening socket is the runtime's: a jail may make none.
"""

from __future__ import annotations

import select
import socket
import struct
import threading

from . import protocol

MOST = 64
"""Connections at a time; the next one is closed at once."""

LISTENER = 3
"""The supervisor's descriptor of the listening socket."""

SO_ORIGINAL_DST = 80  # <linux/netfilter_ipv4.h>


def accept(listening: socket.socket, path: str) -> None:
    """Take a connection and carry it in a thread of its own, through the supervisor's socket at `path`."""
    connection, _ = listening.accept()
    if threading.active_count() > MOST:
        _reset(connection)
        return
    try:
        threading.Thread(target=_forward, args=(connection, path), daemon=True).start()
    except RuntimeError:  # the pod may have no more processes
        _reset(connection)


def _forward(connection: socket.socket, path: str) -> None:
    with connection, socket.socket(socket.AF_UNIX) as link:
        try:
            wanted = connection.getsockopt(socket.SOL_IP, SO_ORIGINAL_DST, 16)
            link.connect(path)
            link.sendall(protocol.call(0, "dial", port=struct.unpack_from("!2xH", wanted)[0]))
            whole = carry(connection, link)
        except (OSError, protocol.ProtocolError):
            whole = False
        if not whole:
            _reset(connection)


def carry(connection: socket.socket, link: socket.socket) -> bool:
    """Carry bytes between the connection and a dialled stream; False when the stream ended before its EXIT."""
    decoder = protocol.Decoder(protocol.FROM_GUEST)
    window, dialled, ended = protocol.WINDOW, False, False
    while True:
        readable = [link] + ([connection] if dialled and not ended and window > 0 else [])
        ready, _, _ = select.select(readable, [], [])
        if connection in ready:
            data = connection.recv(min(window, protocol.CHUNK))
            ended = not data
            window -= len(data)
            link.sendall(protocol.frame(protocol.STDIN, 0, data))
        if link not in ready:
            continue
        received = link.recv(65536)
        if not received:
            return False
        for kind, _, payload in decoder.feed(received):
            if kind == protocol.REPLY:
                dialled = protocol.reply_of(payload)["ok"]
                if not dialled:
                    return False
            elif kind == protocol.STDOUT:
                if payload:
                    connection.sendall(payload)
                    link.sendall(protocol.credit(0, len(payload)))
                else:
                    connection.shutdown(socket.SHUT_WR)
            elif kind == protocol.CREDIT:
                window += protocol.credit_of(payload)
            elif kind == protocol.EXIT:
                return True


def _reset(connection: socket.socket) -> None:
    """Close so that the other side sees an error, not an end."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
