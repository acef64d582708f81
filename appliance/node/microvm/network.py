"""The pod's network: its address is given to the guest's card, and packets go straight between eth0 and the tap.

eth0 keeps its address and its hardware address, so the engine and its network plugins see what they made; a redirect
at its ingress hands every packet to the tap before the host's stack sees it, and the other way round.
"""

from __future__ import annotations

import json
import subprocess

from .settings import RuntimeFailure

CARD, TAP = "eth0", "tap0"


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
    card = links.get(CARD)
    if card is None:
        return None
    routes = json.loads(_inside(namespace, ["ip", "-json", "route", "show", "dev", CARD]) or "[]")
    routes += json.loads(_inside(namespace, ["ip", "-json", "-6", "route", "show", "dev", CARD]) or "[]")
    _inside(namespace, ["ip", "link", "set", "dev", TAP, "mtu", str(card["mtu"]), "up"])
    commands = ""
    for one, other in ((CARD, TAP), (TAP, CARD)):
        commands += f"qdisc replace dev {one} ingress\n"
        commands += f"filter replace dev {one} parent ffff: protocol all prio 1 u32 match u32 0 0 "
        commands += f"action mirred egress redirect dev {other}\n"
    _inside(namespace, ["tc", "-batch", "-"], commands)
    return {"mac": card["address"], "mtu": card["mtu"], "addresses": _addresses(card), "routes": _routes(routes)}


def disconnect(namespace: str) -> None:
    """Remove what `connect` made, where the namespace is still there."""
    for argv in (["ip", "link", "del", "dev", TAP], ["tc", "qdisc", "del", "dev", CARD, "ingress"]):
        subprocess.run(["nsenter", f"--net={namespace}", *argv], capture_output=True)


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
