"""What the network between host and pod does: throughput both ways, and how long a byte takes there and back."""

from __future__ import annotations

import socket
import statistics
import time

from .io import PYTHON, source
from .pods import Node, say

PROGRAM, PORT, SIZE, BLOCK = "net_load.py", 5201, 64 << 20, 1 << 16
ROUND_TRIPS = 500


def run(node: Node, handler: str, runs: int) -> dict:
    """Return {"runs": [{"to_pod_mib_s", "from_pod_mib_s", "round_trip_us"}]}, the last one a median."""
    programs = node.directory / "programs"
    programs.mkdir(exist_ok=True)
    (programs / PROGRAM).write_bytes(source(PROGRAM))
    pod = node.pod(handler)
    pod.start("/usr/bin/python3", "-IS", f"/bench/{PROGRAM}", mounts={**PYTHON, "/bench": programs})
    pod.output()
    address, results = pod.address(), []
    for number in range(1, runs + 1):
        results.append(
            {"to_pod_mib_s": _send(address), "from_pod_mib_s": _receive(address), "round_trip_us": _echo(address)}
        )
        say(f"{handler}: {results[-1]['to_pod_mib_s']} MiB/s to the pod ({number} of {runs})")
    pod.remove()
    return {"runs": results}


def _connect(address: str, what: bytes) -> socket.socket:
    connection = socket.create_connection((address, PORT), timeout=120)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sendall(what)
    return connection


def _send(address: str) -> float:
    with _connect(address, b"s") as connection:
        begin, block = time.perf_counter(), bytes(BLOCK)
        for _ in range(SIZE // BLOCK):
            connection.sendall(block)
        connection.recv(1)  # all of it has arrived
        return round(SIZE / (1 << 20) / (time.perf_counter() - begin), 1)


def _receive(address: str) -> float:
    with _connect(address, b"f") as connection:
        begin, left = time.perf_counter(), SIZE
        while left and (data := connection.recv(BLOCK)):
            left -= len(data)
        return round((SIZE - left) / (1 << 20) / (time.perf_counter() - begin), 1)


def _echo(address: str) -> float:
    times = []
    with _connect(address, b"e") as connection:
        for _ in range(ROUND_TRIPS):
            begin = time.perf_counter()
            connection.sendall(b"x")
            connection.recv(1)
            times.append(time.perf_counter() - begin)
    return round(statistics.median(times) * 1e6, 1)
