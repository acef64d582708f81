"""Where this host's apt would fetch packages: read from its own sources and proxy settings."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from appliance.node.health.host import Host

PORTS = {"http": 80, "https": 443, "ftp": 21}


def uris(host: Host) -> list[str]:
    """Every enabled deb URI of sources.list, *.list and *.sources, each once, in order."""
    directory = host.path("/etc/apt/sources.list.d")
    names = sorted(one.name for one in directory.iterdir()) if directory.is_dir() else []
    found = _one_line(host.read("/etc/apt/sources.list"))
    for name in names:
        text = host.read(f"/etc/apt/sources.list.d/{name}")
        if name.endswith(".list"):
            found += _one_line(text)
        elif name.endswith(".sources"):
            found += _deb822(text)
    return list(dict.fromkeys(found))


def endpoints(host: Host) -> list[tuple[str, int, str]]:
    """(address, port, why) of everything apt must reach.

    Local sources (file, cdrom, copy) need nothing, and where a program chooses the proxy nobody can tell beforehand.
    """
    configured = host.run(["apt-config", "dump", "Acquire"]).out
    found = []
    for uri in uris(host):
        parts = urlsplit(uri.replace("mirror+", "", 1))
        if parts.scheme not in PORTS or _option(configured, parts.scheme, "Proxy-?Auto-?Detect"):
            continue
        address = parts.hostname or uri
        way = _option(configured, parts.scheme, f"Proxy::{re.escape(address)}") or _option(
            configured, parts.scheme, "Proxy"
        )
        if way and way != "DIRECT":
            through = urlsplit(way)
            found.append((through.hostname or way, through.port or PORTS.get(through.scheme, 80), "apt's proxy"))
        else:
            found.append((address, parts.port or PORTS[parts.scheme], "a package source"))
    return list(dict.fromkeys(found))


def _option(configured: str, scheme: str, name: str) -> str:
    """One of apt's options for a scheme, `name` being a regular expression; "" if it is not set."""
    given = re.search(rf'^Acquire::{scheme}::{name} "([^"]*)";', configured, re.MULTILINE | re.IGNORECASE)
    return given.group(1) if given else ""


def _one_line(text: str) -> list[str]:
    """`deb [options] URI suite ...`"""
    return re.findall(r"^\s*deb\s+(?:\[[^\]]*\]\s+)?(\S+)", text, re.MULTILINE)


def _deb822(text: str) -> list[str]:
    """Stanzas of `Key: value` lines; a value goes on in lines that start with a blank."""
    found: list[str] = []
    text = re.sub(r"^#.*\n?", "", text, flags=re.MULTILINE)
    for stanza in re.split(r"\n\s*\n", text):
        fields = {
            key.lower(): value.split()
            for key, value in re.findall(r"^([A-Za-z-]+):((?:.*)(?:\n[ \t]+\S.*)*)", stanza, re.MULTILINE)
        }
        if "deb" in fields.get("types", []) and fields.get("enabled", ["yes"])[0].lower() not in ("no", "false", "0"):
            found += fields.get("uris", [])
    return found
