"""The pod's network: its address is given to the guest's card, and packets go straight between eth0 and the tap.

eth0 keeps its address and its hardware address, so the engine and its network plugins see what they made; rules at its
ingress hand every packet to the tap before the host's stack sees it, and those of the tap the other way (packets.py).
"""

from __future__ import annotations

import json
import subprocess

from . import packets
from .settings import RuntimeFailure

CARD, TAP = "eth0", "tap0"
FORWARD_PORT = 15001
"""TCP port on the namespace's loopback where the supervisor takes port-forwards, whatever port they ask for."""


def connect(namespace: str, owner_uid: int) -> dict | None:
    """Make the tap in the network namespace at path `namespace`, joined to eth0; return what the guest's card gets.

    The result has mac, mtu, addresses ["ADDRESS/PREFIX"] and routes [{"dst", "gateway", "scope"}]; None when the pod
    has no network but its loopback. Raises RuntimeFailure naming the command that failed.
    """
    links = {link["ifname"]: link for link in json.loads(_inside(namespace, ["ip", "-json", "addr", "show"]))}
    extra = sorted(name for name, link in links.items() if name not in ("lo", CARD, TAP) and link.get("addr_info"))
    if extra:
        raise RuntimeFailure(
            f"the pod has a second interface {extra[0]}; a microVM gets one: use runtimeClassName: runc"
        )
    _inside(namespace, ["ip", "tuntap", "add", "dev", TAP, "mode", "tap", "user", str(owner_uid)])
    rules = packets.REMOVE + packets.host_rules(FORWARD_PORT)
    card = links.get(CARD)
    if card is None:
        _inside(namespace, ["nft", "-f", "-"], rules)
        return None
    routes = json.loads(_inside(namespace, ["ip", "-json", "route", "show", "dev", CARD]) or "[]")
    routes += json.loads(_inside(namespace, ["ip", "-json", "-6", "route", "show", "dev", CARD]) or "[]")
    rules += packets.card_rules(CARD, TAP, card["address"], [a["local"] for a in card["addr_info"]])
    _inside(namespace, ["nft", "-f", "-"], rules)
    _inside(namespace, ["ip", "link", "set", "dev", TAP, "mtu", str(card["mtu"]), "up"])
    return {"mac": card["address"], "mtu": card["mtu"], "addresses": _addresses(card), "routes": _routes(routes)}


def disconnect(namespace: str) -> None:
    """Remove what `connect` made, where the namespace is still there."""
    for argv, text in ((["nft", "-f", "-"], packets.REMOVE), (["ip", "link", "del", "dev", TAP], None)):
        subprocess.run(["nsenter", f"--net={namespace}", *argv], input=text, text=True, capture_output=True)


def _addresses(card: dict) -> list[str]:
    return [f"{a['local']}/{a['prefixlen']}" for a in card["addr_info"] if a.get("scope") != "link"]


def _routes(routes: list[dict]) -> list[dict]:
    """Return the routes that somebody set; those that follow from the addresses come by themselves."""
    chosen = [r for r in routes if r.get("protocol") not in ("kernel", "ra") and r.get("type", "unicast") == "unicast"]
    # A gateway must be reachable before a route through it can be set.
    chosen.sort(key=lambda r: "gateway" in r)
    return [{"dst": r["dst"], "gateway": r.get("gateway"), "scope": r.get("scope")} for r in chosen]


def _inside(namespace: str, argv: list[str], text: str | None = None) -> str:
    done = subprocess.run(["nsenter", f"--net={namespace}", *argv], input=text, capture_output=True, text=True)
    if done.returncode:
        what = " ".join(argv)
        raise RuntimeFailure(f"the pod's network ({namespace}): {what}: {done.stderr.strip() or done.returncode}")
    return done.stdout
