"""Runs in a pod, alone: net.py's TCP server. One letter says what a connection is for: s(ink), f(lood), e(cho)."""

import socket

SIZE, BLOCK = 64 << 20, 1 << 16

with socket.create_server(("0.0.0.0", 5201)) as server:  # noqa: S104 (a pod's, for as long as the benchmark runs)
    print("ready", flush=True)
    while True:
        connection, _ = server.accept()
        with connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            what = connection.recv(1)
            left = SIZE
            if what == b"s":
                while left and (data := connection.recv(BLOCK)):
                    left -= len(data)
                connection.sendall(b"k")
            elif what == b"f":
                connection.sendall(bytes(SIZE))
            elif what == b"e":
                while data := connection.recv(1):
                    connection.sendall(data)
