"""Telling systemd how a service is doing (the sd_notify protocol)."""

import os
import socket


def notify(*assignments: str) -> None:
    """Send assignments such as `READY=1` to systemd; does nothing when not run by it."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        channel.connect("\0" + address[1:] if address.startswith("@") else address)
        channel.send("\n".join(assignments).encode())
