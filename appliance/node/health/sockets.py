"""Who listens where, read from /proc."""

from __future__ import annotations

import re
import socket
import struct
from dataclasses import dataclass

from appliance.node.health.host import Host

LISTEN = "0A"
WILDCARDS = ("0.0.0.0", "::")  # noqa: S104 - recognised here, never bound


@dataclass(frozen=True)
class Listener:
    """A listening TCP socket, its process and that process's systemd unit ("" where unknown)."""

    address: str
    port: int
    pid: int
    process: str
    unit: str

    @property
    def who(self) -> str:
        """The holder in words."""
        if not self.process:
            return "a process outside this host's view"
        return f"{self.process} (process {self.pid}{', ' + self.unit if self.unit else ''})"

    def clashes(self, address: str, port: int) -> bool:
        """Whether nobody else could bind `port` at `address` now."""
        return self.port == port and (self.address == address or self.address in WILDCARDS or address in WILDCARDS)


def listeners(host: Host, ports: set[int]) -> list[Listener]:
    """The TCP sockets that listen on one of `ports`."""
    found: list[tuple[str, int, str]] = []
    for table in ("tcp", "tcp6"):
        for line in host.read(f"/proc/net/{table}").splitlines()[1:]:
            fields = line.split()
            address, port = fields[1].split(":")
            if fields[3] == LISTEN and int(port, 16) in ports:
                found.append((_address(address), int(port, 16), fields[9]))
    owners = _owners(host, {inode for _, _, inode in found}) if found else {}
    return sorted(
        (
            Listener(address, port, pid, _process(host, pid), unit_of(host, pid))
            for address, port, inode in found
            for pid in [owners.get(inode, 0)]
        ),
        key=lambda one: (one.port, one.address),
    )


def unit_of(host: Host, pid: int) -> str:
    """The systemd service that a process belongs to, or ""."""
    units = re.findall(r"/([^/\n]+\.service)", host.read(f"/proc/{pid}/cgroup")) if pid else []
    return units[-1] if units else ""


def _process(host: Host, pid: int) -> str:
    return host.read(f"/proc/{pid}/comm").strip() if pid else ""


def _address(digits: str) -> str:
    """The kernel prints each 32 bit word of an address in the machine's byte order."""
    words = [struct.pack("=I", int(digits[at : at + 8], 16)) for at in range(0, len(digits), 8)]
    family = socket.AF_INET if len(words) == 1 else socket.AF_INET6
    return socket.inet_ntop(family, b"".join(words))


def _owners(host: Host, inodes: set[str]) -> dict[str, int]:
    """The first process found holding each socket."""
    owners: dict[str, int] = {}
    for process in host.path("/proc").glob("[0-9]*"):
        try:
            links = [str(one.readlink()) for one in (process / "fd").iterdir()]
        except OSError:  # ended meanwhile
            continue
        for link in links:
            inode = link[8:-1] if link.startswith("socket:[") else ""
            if inode in inodes:
                owners.setdefault(inode, int(process.name))
    return owners
