"""A btrfs as the kernel shows it in /sys/fs/btrfs, and as a device's superblock tells it. Needs no program.

Preflight looks at hosts that have no btrfs-progs yet.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

from appliance.node.health.host import Host

_SUPERBLOCK, _LENGTH = 0x10000, 0x1000
_MAGIC_AT, _MAGIC = 0x40, b"_BHRfS_M"
_DEVICES_AT, _DEVICE_AT = 0x88, 0xC9  # num_devices; dev_item: devid and total_bytes come first
SECTOR = 512
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def superblock(path: Path) -> dict:
    """{"devices": of the whole file system, "id": of this device, "size": bytes of it in use by btrfs}; {} for none."""
    try:
        with path.open("rb") as device:
            device.seek(_SUPERBLOCK)
            block = device.read(_LENGTH)
    except OSError:
        return {}
    if block[_MAGIC_AT : _MAGIC_AT + len(_MAGIC)] != _MAGIC:
        return {}
    number, size = struct.unpack_from("<QQ", block, _DEVICE_AT)
    return {"devices": struct.unpack_from("<Q", block, _DEVICES_AT)[0], "id": number, "size": size}


def kernel_name(host: Host, device: str) -> str:
    """The name by which the kernel knows a device, such as sda or dm-0."""
    return Path(os.path.realpath(host.path(device))).name


def size_of(host: Host, name: str) -> int:
    """Bytes of a block device, by its kernel name; 0 where nobody knows."""
    text = host.read(f"/sys/class/block/{name}/size").strip()
    return int(text) * SECTOR if text.isdigit() else 0


def mounted(host: Host, source: str) -> dict:
    """The mounted btrfs that a device is of; {} for none.

    {"uuid", "busy": what the kernel is doing to it ("none", "balance", "device replace" ...), "profiles": {kind:
    [name]}, "used": {kind: bytes} for the kinds data, metadata and system, "members": [{"id", "name": of the kernel, ""
    where it is missing, "missing": bool, "errors": {kind: count}}] in the order of their ids}.
    """
    name = kernel_name(host, source)
    top = host.path("/sys/fs/btrfs")
    found = [one.parent.parent for one in top.glob(f"*/devices/{name}")] if source else []
    if not found:
        return {}
    shown = f"/sys/fs/btrfs/{found[0].name}"
    kinds = ("data", "metadata", "system")
    return {
        "uuid": found[0].name,
        "busy": host.read(f"{shown}/exclusive_operation").strip() or "none",
        "profiles": {
            kind: sorted(
                one.parent.name
                for one in (found[0] / "allocation" / kind).glob("*/total_bytes")
                if int(one.read_text()) > 0
            )
            for kind in kinds
        },
        "used": {kind: int(host.read(f"{shown}/allocation/{kind}/bytes_used") or 0) for kind in kinds},
        "members": _members(host, shown),
    }


def in_bytes(size: str) -> int:
    """A size such as 512M or 10G in bytes; none is 0."""
    return int(size[:-1]) * _UNITS[size[-1]] if size else 0


def limits(host: Host, path: str) -> tuple[int, int]:
    """Bytes that a subvolume holds, and the most that it may; (0, 0) where the pool counts none, 0 for no limit."""
    asked = host.run(["btrfs", "qgroup", "show", "-rf", "--raw", str(host.path(path))])
    # QGROUPID, REFERENCED, EXCLUSIVE, MAX_REFERENCED, in later releases PATH; below two lines of head
    rows = [line.split() for line in asked.out.splitlines() if line.startswith("0/")]
    return (int(rows[0][1]), 0 if rows[0][3] == "none" else int(rows[0][3])) if rows else (0, 0)


def _members(host: Host, shown: str) -> list[dict]:
    """devices/ has no ids and devinfo/ no names: a superblock has both."""
    names = {}
    for one in sorted(host.path(f"{shown}/devices").iterdir()):
        block = superblock(host.path(f"/dev/{one.name}"))
        if block:
            names[block["id"]] = one.name
    found = []
    for info in sorted(host.path(f"{shown}/devinfo").iterdir(), key=lambda one: int(one.name)):
        missing = host.read(f"{shown}/devinfo/{info.name}/missing").strip() == "1"
        lines = host.read(f"{shown}/devinfo/{info.name}/error_stats").splitlines()
        errors = {words[0]: int(words[1]) for words in map(str.split, lines) if len(words) == 2}
        name = "" if missing else names.get(int(info.name), "")
        found.append({"id": int(info.name), "name": name, "missing": missing, "errors": errors})
    return found
