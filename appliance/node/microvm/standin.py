"""The stand-in: the process that the host sees in place of a program in the guest.

It carries input, output, signals and the window's size, and ends as the program ends. Killed, it takes the program
with it: the supervisor sees its connection close. When the guest goes away, it fails; it never reports a success
that it was not told of.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import socket
import struct
import sys
import termios
import tty

from . import protocol

SOCKET = "/run/pod/ctl/sock"
GUEST_LOST = 255
NOT_STARTED = 128

FORWARDED = set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD, signal.SIGWINCH, signal.SIGPIPE}


def main(key: str, terminal: bool) -> int:
    """Run the program `key` of the guest; return the exit code to end with."""
    wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    for number in FORWARDED | {signal.SIGWINCH}:
        with contextlib.suppress(OSError):  # SIGRTMIN and its neighbours belong to the C library
            signal.signal(number, lambda *_: None)
    link = socket.socket(socket.AF_UNIX)
    try:
        link.connect(SOCKET)
        link.sendall(protocol.message(protocol.CALL, 0, {"op": "attach", "key": key}))
        if terminal:
            tty.setraw(0)
        return _carry(link, wake_read, terminal)
    except OSError as error:
        print(f"casemate: this pod's guest is gone: {error}", file=sys.stderr)
        return GUEST_LOST


def _carry(link: socket.socket, wake: int, terminal: bool) -> int:
    decoder = protocol.Decoder()
    window = protocol.WINDOW
    running, input_open = False, True
    poll = select.poll()
    poll.register(link, select.POLLIN)
    poll.register(wake, select.POLLIN)
    while True:
        if running and input_open and window > 0:
            poll.register(0, select.POLLIN)
        else:
            with contextlib.suppress(KeyError):
                poll.unregister(0)
        ready = {fd for fd, _ in poll.poll()}
        if wake in ready and running:
            for number in os.read(wake, 4096):
                _forward(link, number, terminal)
        if 0 in ready:
            data = _read(min(window, protocol.CHUNK))
            input_open = bool(data)
            window -= len(data)
            link.sendall(protocol.frame(protocol.STDIN, 0, data))
        if link.fileno() not in ready:
            continue
        received = link.recv(65536)
        if not received:
            print("casemate: the pod's virtual machine has ended", file=sys.stderr)
            return GUEST_LOST
        for kind, _, payload in decoder.feed(received):
            if kind == protocol.REPLY:
                reply = json.loads(payload)
                if not reply["ok"]:
                    print(f"casemate: {reply['error']}", file=sys.stderr)
                    return NOT_STARTED
                running = True
                if terminal:
                    _forward(link, signal.SIGWINCH, terminal)
            elif kind in (protocol.STDOUT, protocol.STDERR):
                _write(1 if kind == protocol.STDOUT else 2, payload)
                link.sendall(protocol.credit(0, len(payload)))
            elif kind == protocol.CREDIT:
                window += protocol.credit_of(payload)
            elif kind == protocol.EXIT:
                return json.loads(payload)["code"]


def _forward(link: socket.socket, number: int, terminal: bool) -> None:
    if number != signal.SIGWINCH:
        link.sendall(protocol.frame(protocol.SIGNAL, 0, bytes([number])))
    elif terminal:
        rows, columns, _, _ = struct.unpack("HHHH", fcntl.ioctl(0, termios.TIOCGWINSZ, bytes(8)))
        link.sendall(protocol.frame(protocol.RESIZE, 0, struct.pack("!HH", rows, columns)))


def _read(count: int) -> bytes:
    try:
        return os.read(0, count)
    except OSError:  # a terminal that has been hung up, or no input at all
        return b""


def _write(fd: int, data: bytes) -> None:
    """Write all of `data`; where nobody reads any more, drop it, as the program must not notice."""
    with contextlib.suppress(OSError):
        while data:
            data = data[os.write(fd, data) :]
