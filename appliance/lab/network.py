"""The lab's network: one bridge, one cable a host, one nft table that lets hosts reach the outside.

Names and addresses are the lab's own (`cmlab*`, 10.87.0.0/24, nft table `casemate_lab`), so that what is
removed is what was made.
"""

import json
import subprocess
from pathlib import Path

from appliance.errors import CasemateError
from appliance.lab import state

BRIDGE = "cmlab0"
NFT_TABLE = "casemate_lab"
IP_FORWARD = Path("/proc/sys/net/ipv4/ip_forward")
NETNS_DIR = Path("/run/netns")


def up() -> None:
    """Make bridge, address, forwarding and masquerade where they are missing.

    Raises CasemateError when the machine reaches the lab's addresses by another interface already.
    """
    _refuse_foreign_subnet()
    # first of all: what a killed run leaves must still know what was there before it
    # `ip netns add` mounts /run/netns on itself the first time it is ever used
    state.remember_before({"ip_forward": IP_FORWARD.read_text().strip(), "netns_mounted": NETNS_DIR.is_mount()})
    if not _link_exists(BRIDGE):
        _run("ip", "link", "add", BRIDGE, "mtu", str(_outer_mtu()), "type", "bridge")
    # always, and harmless where it is so: a run that was killed may have made the bridge and no more
    _run("ip", "address", "replace", f"{state.GATEWAY}/24", "dev", BRIDGE)
    _run("ip", "link", "set", BRIDGE, "up")
    IP_FORWARD.write_text("1")
    # add is harmless where the table exists; flush makes the rules right whatever was there
    rules = f"""
        add table ip {NFT_TABLE}
        flush table ip {NFT_TABLE}
        table ip {NFT_TABLE} {{
            chain postrouting {{
                type nat hook postrouting priority srcnat;
                ip saddr {state.SUBNET} oifname != "{BRIDGE}" masquerade
            }}
        }}
    """
    _run("nft", "-f", "-", stdin=rules)


def _refuse_foreign_subnet() -> None:
    routes = json.loads(_run("ip", "-json", "route", "show", "root", state.SUBNET) or "[]")
    foreign = {route["dev"] for route in routes} - {BRIDGE}
    if foreign:
        raise CasemateError(
            f"this machine reaches {state.SUBNET} through {', '.join(sorted(foreign))} already",
            place="lab network",
            cure="give the lab another /24, for all its commands: export CASEMATE_LAB_PREFIX=10.99.0",
        )


def down() -> None:
    """Remove all of it and put the machine's own forwarding back."""
    if _link_exists(BRIDGE):
        _run("ip", "link", "delete", BRIDGE)
    subprocess.run(["nft", "delete", "table", "ip", NFT_TABLE], capture_output=True, check=False)
    before = state.take_before()
    if "ip_forward" in before:
        IP_FORWARD.write_text(before["ip_forward"])
    if before.get("netns_mounted") is False and NETNS_DIR.is_mount() and not any(NETNS_DIR.iterdir()):
        _run("umount", str(NETNS_DIR))


def plug(host: state.Host) -> None:
    """Give the host a network namespace with a configured eth0. It outlives reboots of the host."""
    if not (NETNS_DIR / host.netns).exists():
        _run("ip", "netns", "add", host.netns)
    if not _link_exists(host.interface):
        outer = str(_outer_mtu())
        peer = ["peer", "name", "eth0", "mtu", outer, "netns", host.netns]
        _run("ip", "link", "add", host.interface, "mtu", outer, "type", "veth", *peer)
    _run("ip", "link", "set", host.interface, "master", BRIDGE, "up")
    inside = ["ip", "-n", host.netns]
    _run(*inside, "link", "set", "lo", "up")
    _run(*inside, "address", "replace", f"{host.ip}/24", "dev", "eth0")
    _run(*inside, "link", "set", "eth0", "up")
    _run(*inside, "route", "replace", "default", "via", state.GATEWAY)


def unplug(host: state.Host) -> None:
    if _link_exists(host.interface):
        _run("ip", "link", "delete", host.interface)
    if (NETNS_DIR / host.netns).exists():
        _run("ip", "netns", "delete", host.netns)


def tap(host: state.Host) -> str:
    """Make a tap on the bridge for a QEMU host; returns its name."""
    if not _link_exists(host.interface):
        _run("ip", "tuntap", "add", host.interface, "mode", "tap")
    _run("ip", "link", "set", host.interface, "mtu", str(_outer_mtu()), "master", BRIDGE, "up")
    return host.interface


def mtu(interface: str) -> int:
    """Asked of the kernel, as in `_link_exists`."""
    return json.loads(_run("ip", "-json", "link", "show", "dev", interface))[0]["mtu"]


def _outer_mtu() -> int:
    """The MTU towards the outside: a larger one inside loses packets where the path drops ICMP."""
    routes = json.loads(_run("ip", "-json", "route", "show", "default") or "[]")
    return mtu(routes[0]["dev"]) if routes else 1500


def _link_exists(name: str) -> bool:
    """Asked of the kernel: /sys/class/net shows, in a container, its maker's interfaces."""
    return subprocess.run(["ip", "link", "show", "dev", name], capture_output=True, check=False).returncode == 0


def _run(*argv: str, stdin: str | None = None) -> str:
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CasemateError(f"{' '.join(argv)}: {done.stderr.strip()}", place="lab network")
    return done.stdout
