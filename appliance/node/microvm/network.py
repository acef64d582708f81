"""The pod's network: its address is given to the guest's card, and packets go straight between eth0 and the tap.

eth0 keeps its address and its hardware address, so the engine and its network plugins see what they made; rules at its
ingress hand every packet to the tap before the host's stack sees it, and those of the tap the other way (packets.py).
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import socket
import subprocess
from collections.abc import Iterator

from . import packets
from .settings import RuntimeFailure

CARD, TAP = "eth0", "tap0"
CLONE_NEWNET = 0x40000000  # <linux/sched.h>


def listen(namespace: str) -> socket.socket:
    """Return a socket that listens for port-forwards on the localhost of the network namespace at path `namespace`."""
    with _inside(namespace):
        return socket.create_server(("127.0.0.1", 0))


def connect(namespace: str, owner_uid: int, forwards_port: int) -> dict:
    """Make the tap in the network namespace at path `namespace`, joined to eth0; `forwards_port` stays the host's.

    Returns what the guest's card gets: mac, mtu, addresses ["ADDRESS/PREFIX"] and routes [{"dst", "gateway", "scope"}].
    Raises RuntimeFailure naming the command that failed.
    """
    with _inside(namespace):
        links = {link["ifname"]: link for link in json.loads(_run("ip", "-json", "addr", "show"))}
        extra = sorted(name for name, link in links.items() if name not in ("lo", CARD, TAP) and link.get("addr_info"))
        if extra:
            raise RuntimeFailure(
                f"the pod has a second interface {extra[0]}; a microVM gets one: use runtimeClassName: runc"
            )
        card = links.get(CARD)
        if card is None:
            raise RuntimeFailure(f"the pod has no interface {CARD}, which is what a microVM joins")
        _run("ip", "tuntap", "add", "dev", TAP, "mode", "tap", "user", str(owner_uid))
        routes = json.loads(_run("ip", "-json", "route", "show", "dev", CARD) or "[]")
        routes += json.loads(_run("ip", "-json", "-6", "route", "show", "dev", CARD) or "[]")
        addresses = [a["local"] for a in card["addr_info"]]
        rules = packets.rules(CARD, TAP, card["address"], addresses, forwards_port)
        _run("nft", "-f", "-", text=packets.REMOVE + rules)
        _run("ip", "link", "set", "dev", TAP, "mtu", str(card["mtu"]), "up")
    return {"mac": card["address"], "mtu": card["mtu"], "addresses": _addresses(card), "routes": _routes(routes)}


def disconnect(namespace: str) -> None:
    """Remove what `connect` made, where the namespace is still there."""
    with contextlib.suppress(OSError, RuntimeFailure), _inside(namespace):
        _run("nft", "-f", "-", text=packets.REMOVE)
        _run("ip", "link", "del", "dev", TAP)


def _addresses(card: dict) -> list[str]:
    return [f"{a['local']}/{a['prefixlen']}" for a in card["addr_info"] if a.get("scope") != "link"]


def _routes(routes: list[dict]) -> list[dict]:
    """Return the routes that somebody set; those that follow from the addresses come by themselves."""
    chosen = [r for r in routes if r.get("protocol") not in ("kernel", "ra") and r.get("type", "unicast") == "unicast"]
    # A gateway must be reachable before a route through it can be set.
    chosen.sort(key=lambda r: "gateway" in r)
    return [{"dst": r["dst"], "gateway": r.get("gateway"), "scope": r.get("scope")} for r in chosen]


@contextlib.contextmanager
def _inside(namespace: str) -> Iterator[None]:
    """Enter the network namespace, and come back. (os.setns is Python 3.12's.)"""
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/self/ns/net") as own, open(namespace) as pods:
        if libc.setns(pods.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"cannot enter the pod's network namespace {namespace}")
        try:
            yield
        finally:
            libc.setns(own.fileno(), CLONE_NEWNET)


def _run(*argv: str, text: str | None = None) -> str:
    try:
        done = subprocess.run(argv, input=text, capture_output=True, text=True)
    except FileNotFoundError:
        raise RuntimeFailure(f"{argv[0]} is not installed; deploy installs it (microvm_packages)") from None
    if done.returncode:
        what = " ".join(argv)
        raise RuntimeFailure(f"the pod's network: {what}: {done.stderr.strip() or done.returncode}")
    return done.stdout
