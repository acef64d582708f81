"""Which packets pass between a pod's card and its guest: the nftables rules of the pod's network namespace.

The guest may own its kernel, so what it sends is looked at here, outside of it: only frames of the pod's own hardware
address with the pod's own addresses leave, and nothing that makes others send elsewhere (an answer for somebody else's
address, a router's advertisement, DHCP as a server). The host's own stack in the namespace has the pod's addresses too;
it neither sends nor answers anything but on its loopback, where the engine's port-forward comes in (forward.py).
"""

from __future__ import annotations

import ipaddress

TABLE = "casemate"

REMOVE = "".join(f"table {family} {TABLE}\ndelete table {family} {TABLE}\n" for family in ("netdev", "inet"))
"""Removes our tables; no error where there are none."""

_RULES = """
table inet {table} {{
  chain input {{ type filter hook input priority filter; policy drop; iif "lo" accept; }}
  chain output {{ type filter hook output priority filter; policy drop; oif "lo" accept; }}
  chain port_forward {{ type nat hook output priority -100; oif "lo" ip protocol tcp redirect to :{port}; }}
}}
table netdev {table} {{
  chain to_guest {{ type filter hook ingress device "{card}" priority filter; fwd to "{tap}"; }}
  chain from_guest {{
    type filter hook ingress device "{tap}" priority filter; policy drop;
    ether type {{ 8021q, 8021ad }} drop
    ether saddr != {mac} drop
    udp sport {{ 67, 547 }} drop
    {own}
  }}
}}
"""


def rules(card: str, tap: str, mac: str, addresses: list[str], port: int) -> str:
    """Return the rules for a namespace with the interfaces `card` and `tap`, in nft's language.

    `addresses` are the pod's IPv4 and IPv6 addresses, without their prefixes; the IPv6 link-local address that
    follows from `mac` is one of them always. TCP over the namespace's loopback goes to its port `port`.
    """
    found = {ipaddress.ip_address(address) for address in addresses} | {link_local(mac)}
    v4, v6 = (sorted(str(a) for a in found if a.version == version) for version in (4, 6))
    own = []
    if v4:
        arp = f"arp htype 1 arp ptype ip arp hlen 6 arp plen 4 arp saddr ether {mac}"
        own += [
            f"{arp} arp saddr ip {{ {', '.join(v4)} }} fwd to {card}",
            f"{arp} arp saddr ip 0.0.0.0 arp operation request fwd to {card}",  # asks whether an address is free
            f"ip saddr {{ {', '.join(v4)} }} fwd to {card}",
        ]
    targets = ", ".join(f"{int(ipaddress.ip_address(a)):#034x}" for a in v6)
    own += [
        "icmpv6 type { nd-router-advert, nd-redirect, mld-listener-query } drop",
        f"icmpv6 type nd-neighbor-advert @th,64,128 != {{ {targets} }} drop",
        f"ip6 saddr :: icmpv6 type {{ mld-listener-report, mld2-listener-report, nd-neighbor-solicit }} fwd to {card}",
        f"ip6 saddr {{ {', '.join(v6)} }} fwd to {card}",
    ]
    return _RULES.format(table=TABLE, card=card, tap=tap, mac=mac, port=port, own="\n    ".join(own))


def link_local(mac: str) -> ipaddress.IPv6Address:
    """Return the link-local address that Linux gives a card with the hardware address `mac`."""
    octets = bytearray.fromhex(mac.replace(":", ""))
    octets[0] ^= 2
    return ipaddress.IPv6Address(b"\xfe\x80" + bytes(6) + bytes(octets[:3]) + b"\xff\xfe" + bytes(octets[3:]))
