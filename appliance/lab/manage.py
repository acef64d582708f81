"""Making and removing lab hosts: what `appliance lab` does, for the command, the tests and Molecule."""

import os
import re
import shutil
from collections.abc import Callable
from types import ModuleType

from appliance.errors import CasemateError, UsageError
from appliance.lab import image, network, nspawn, state
from appliance.lab.state import Host

# program -> Debian package it comes in
NEEDS = {
    "nspawn": {
        "systemd-nspawn": "systemd-container",
        "mmdebstrap": "mmdebstrap",
        "nft": "nftables",
        "ip": "iproute2",
        "losetup": "mount",
    },
    "qemu": {
        "qemu-system-x86_64": "qemu-system-x86",
        "mmdebstrap": "mmdebstrap",
        "nft": "nftables",
        "ip": "iproute2",
        "ssh": "openssh-client",
        "mke2fs": "e2fsprogs",
    },
}


def up(
    names: list[str],
    *,
    kind: str = "nspawn",
    release: str = "bookworm",
    disk_mib: int = 8192,
    memory_mib: int = 0,
    progress: Callable[[str], None] = lambda text: None,
) -> list[Host]:
    """Make and boot the named hosts; those that run already are left as they are.

    Raises UsageError for a bad name, release or kind, or a host that exists with another kind or release.
    """
    check_machine(kind)
    for name in names:
        if not re.fullmatch(r"[a-z][a-z0-9-]{0,19}", name):
            raise UsageError(
                f"{name!r} is no host name for the lab",
                cure="use a lower-case letter, then up to 19 letters, digits or hyphens",
            )
    if release not in image.RELEASES:
        raise UsageError(f"unknown release {release!r}", cure=f"one of: {', '.join(image.RELEASES)}")
    with state.locked(progress):
        made = []
        network.up()
        for name in names:
            host = state.load(name)
            if host is None:
                host = Host(name, kind, release, state.free_index(state.load_all()), disk_mib, memory_mib)
                state.save(host)
            elif (host.kind, host.release) != (kind, release):
                raise UsageError(
                    f"{name} exists already, as {host.kind} {host.release}, not {kind} {release}",
                    cure=f"appliance lab down {name}",
                )
            driver(host.kind).up(host, progress)
            state.save(host)
            state.write_inventory()
            made.append(host)
        return made


def down(names: list[str] | None = None, *, progress: Callable[[str], None] = lambda text: None) -> list[str]:
    """Remove the named hosts (all when None) and, with the last one, the network. Returns the names removed."""
    if not state.lab_dir().exists():
        return []
    with state.locked(progress):
        known = {h.name: h for h in state.load_all()}
        unknown = [n for n in names or [] if n not in known]
        if unknown:
            raise UsageError(f"no lab host {', '.join(unknown)}", cure=f"there are: {', '.join(known) or 'none'}")
        removed = []
        for host in [known[n] for n in names] if names else list(known.values()):
            progress(f"{host.name}: removing")
            driver(host.kind).down(host)
            state.forget(host)
            state.write_inventory()
            removed.append(host.name)
        if not state.load_all():
            network.down()
        state.remove_if_empty()
        return removed


def listing() -> list[dict]:
    """`lab list`'s rows: name, kind, release, ip, state."""
    return [
        {"name": h.name, "kind": h.kind, "release": h.release, "ip": h.ip, "state": driver(h.kind).state(h)}
        for h in state.load_all()
    ]


def shell(name: str, command: list[str]) -> list[str]:
    """The argv that runs `command` in the host; an interactive shell when it is empty."""
    host = state.load(name)
    if host is None:
        names = ", ".join(h.name for h in state.load_all()) or "none"
        raise UsageError(f"no lab host {name!r}", cure=f"there are: {names}")
    return driver(host.kind).shell(host, command)


def purge_cache() -> None:
    """Remove the cached base images."""
    shutil.rmtree(state.cache_dir(), ignore_errors=True)


def check_machine(kind: str) -> None:
    """Raise CasemateError unless this machine can hold lab hosts of `kind`."""
    if os.geteuid() != 0:
        raise CasemateError("the lab needs root: it makes network namespaces and loop devices", cure="run it with sudo")
    missing = {package for program, package in NEEDS[kind].items() if shutil.which(program) is None}
    if missing:
        packages = " ".join(sorted(missing))
        raise CasemateError(f"the lab needs packages that are missing: {packages}", cure=f"apt-get install {packages}")


def driver(kind: str) -> ModuleType:
    if kind == "nspawn":
        return nspawn
    from appliance.lab import qemu

    return qemu
