"""The stand-in: the process that the host sees in place of a program in the guest.

It carries input, output, signals and the window's size, and ends as the program ends. Killed, it takes the program
with it: the supervisor sees its connection close. When the guest goes away, it fails; it never reports a success
that it was not told of.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import select
import signal
import socket
import struct
import sys
import termios
import time
import tty

from . import protocol

SOCKET = "/run/pod/ctl/sock"
GUEST_LOST = 255
NOT_STARTED = 128

FORWARDED = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
MOST_MEMORY = 1024 * 1024 * 1024
"""Bytes that are tried to run out of memory: more than jail.py grants, should the host swap without counting it."""


def main(key: str, terminal: bool) -> int:
    """Run the program `key` of the guest; return the exit code to end with."""
    wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    for number in FORWARDED:
        signal.signal(number, lambda *_: None)
    link = socket.socket(socket.AF_UNIX)
    try:
        link.connect(SOCKET)
        link.sendall(protocol.call(0, "attach", key=key))
        if terminal:
            tty.setraw(0)
        return _carry(link, wake_read, terminal)
    except OSError as error:
        print(f"casemate: this pod's guest is gone: {error}", file=sys.stderr)
        return GUEST_LOST
    except protocol.ProtocolError as error:
        print(f"casemate: this pod's guest does not speak our protocol: {error}", file=sys.stderr)
        return GUEST_LOST


def _carry(link: socket.socket, wake: int, terminal: bool) -> int:
    decoder = protocol.Decoder(protocol.FROM_GUEST)
    window = protocol.WINDOW
    running, input_open = False, True
    size = None  # of the terminal, as the program knows it
    poll = select.poll()
    poll.register(link, select.POLLIN)
    while True:
        if running and input_open and window > 0:
            poll.register(0, select.POLLIN)
        else:
            with contextlib.suppress(KeyError):
                poll.unregister(0)
        ready = {fd for fd, _ in poll.poll()}
        if wake in ready:
            for number in os.read(wake, 4096):
                if number == signal.SIGWINCH and size and size != _size():
                    size = _resize(link)
                else:
                    link.sendall(protocol.frame(protocol.SIGNAL, 0, bytes([number])))
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
                reply = protocol.reply_of(payload)
                if not reply["ok"]:
                    print(f"casemate: {reply['error']}", file=sys.stderr)
                    return NOT_STARTED
                running = True
                poll.register(wake, select.POLLIN)
                if terminal:
                    size = _resize(link)
            elif kind in (protocol.STDOUT, protocol.STDERR):
                _write(1 if kind == protocol.STDOUT else 2, payload)
                link.sendall(protocol.credit(0, len(payload)))
            elif kind == protocol.CREDIT:
                window += protocol.credit_of(payload)
                if window > protocol.WINDOW:
                    raise protocol.ProtocolError("paid for more than was sent")
            elif kind == protocol.EXIT:
                end = protocol.exit_of(payload)
                if end.get("out_of_memory") is True:
                    _run_out_of_memory()
                return end["code"]


def _size() -> tuple[int, int]:
    rows, columns, _, _ = struct.unpack("HHHH", fcntl.ioctl(0, termios.TIOCGWINSZ, bytes(8)))
    return rows, columns


def _resize(link: socket.socket) -> tuple[int, int]:
    """Give the program's terminal the size of ours, and return it."""
    size = _size()
    link.sendall(protocol.frame(protocol.RESIZE, 0, struct.pack("!HH", *size)))
    return size


def _run_out_of_memory() -> None:
    """Have a child killed for want of memory, in our control group, as the program's was in the guest.

    The kernel's own event there is how engines learn of it. The child gives itself to the killer: the stand-in stays,
    to end with the program's code.
    """
    child = os.fork()
    if child == 0:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")
        block = mmap.mmap(-1, MOST_MEMORY, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        for page in range(0, MOST_MEMORY, mmap.PAGESIZE):
            block[page] = 1
        os._exit(0)
    os.waitpid(child, 0)
    time.sleep(0.1)  # the engine must hear of it before it hears of our end, and does so by another way


def _read(count: int) -> bytes:
    try:
        return os.read(0, count)
    except OSError:  # a terminal that has been hung up, or no input at all
        return b""


def _write(fd: int, data: bytes) -> None:
    """Write all of `data`; where nobody reads any more, drop it, as the program must not notice."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGPIPE})
    try:
        while data:
            data = data[os.write(fd, data) :]
    except OSError:
        signal.sigtimedwait({signal.SIGPIPE}, 0)  # ours; one that somebody sends is for the program
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGPIPE})
