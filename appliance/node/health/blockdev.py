"""What is on the devices that are to hold the storage pool, and where the pool is now. Looks only."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from pathlib import Path

from appliance.node.health import btrfs, pool
from appliance.node.health.host import Host
from appliance.node.health.settings import Settings

POOL = "/var/lib/casemate/pool"
# By this label a file system is known to be a pool of ours; the role storage gives it.
LABEL = "casemate-pool"
# What is read at both ends of a device to tell a blank one from data that no tool has a signature for.
PROBE_BYTES = 1 << 20
# A mount or swap stays; what only looks at a device, or makes a loop device of a file, has it for a moment.
PROBED_SECONDS = 3.0


def look(host: Host, settings: Settings) -> dict:
    """The pool's devices and the pool, as a dict.

    devices: for each that is asked for {"name", "state": `missing`, `not-block`, `blank`, `pool` (ours), `used`
    (anything else is on it) or `busy` (a mount, RAID, LVM ... has it), "uuid" of the file system on it, "content": what
    was found, in words, "member": its id in the mounted pool or 0, "of": of how many devices its file system is made,
    "size" in bytes}; state: `directory` (none is asked for), `pool` where one of them is of a pool, else the worst of
    theirs; uuid: of the pool on them; mounted: the source mounted at the pool's path, "" if none; filesystem: the type
    at the pool's path; pool: the mounted pool (btrfs.mounted, and of each member "device" and "size" in use), {} if
    none; steps: what is to be done to it (pool.plan) in words; lacks: why that cannot be; entries: the names in the
    pool's directory; enabled: our units that systemd starts by itself.
    """
    source, filesystem = _mounted_at(host, POOL)
    there = btrfs.mounted(host, source) if filesystem == "btrfs" else {}
    for one in there.get("members", ()):
        one["device"] = f"/dev/{one['name']}" if one["name"] else ""
        one["size"] = btrfs.superblock(host.path(one["device"])).get("size", 0) if one["device"] else 0
    devices = [_device(host, name, there) for name in settings.storage_devices]
    wanted, steps = plan(devices, there, erase=settings.storage_format) if there and devices else ([], [])
    return {
        "devices": devices,
        "state": _state(devices),
        "uuid": next((one["uuid"] for one in devices if one["state"] == "pool"), ""),
        "content": "; ".join(f"{one['name']}: {one['content']}" for one in devices if one["content"]),
        "mounted": source,
        "filesystem": filesystem or _filesystem_of(host, POOL),
        "pool": there,
        "steps": [str(step) for step in steps],
        "lacks": pool.lacks(steps, wanted, there["used"]) if steps else "",
        "entries": _entries(host, POOL),
        "enabled": sorted(one.name for one in host.path("/etc/systemd/system").glob("*.wants/casemate-*")),
    }


def plan(devices: list[dict], there: dict, *, erase: bool) -> tuple[list[dict], list[pool.Step]]:
    """The devices of `look` as pool.plan takes them, and what it says of them and the mounted pool.

    Where not everything may be erased, a device with anything on it counts as one that is not there.
    """
    usable = ("blank", "used") if erase else ("blank",)
    wanted = [{**one, "there": bool(one["member"]) or one["state"] in usable} for one in devices]
    members = [{**one, "name": one["device"]} for one in there["members"]]
    return wanted, pool.plan(wanted, members, there["profiles"])


def _device(host: Host, name: str, there: dict) -> dict:
    kernel = btrfs.kernel_name(host, name)
    member = next((one["id"] for one in there.get("members", ()) if one["name"] == kernel), 0)
    if member:
        state, uuid, content = "pool", there["uuid"], f"btrfs, mounted at {POOL}"
    else:
        state, uuid, content = examine(host, name)
    of = btrfs.superblock(host.path(name)).get("devices", 0) if state == "pool" else 0
    return {"name": name, "state": state, "uuid": uuid, "content": content, "member": member, "of": of,
            "size": btrfs.size_of(host, kernel)}  # fmt: skip


def _state(devices: list[dict]) -> str:
    """One word for all; a pool is there as soon as one of them is of it."""
    states = {one["state"] for one in devices}
    order = ("pool", "missing", "not-block", "busy", "used", "blank")
    return next((state for state in order if state in states), "directory")


def examine(host: Host, device: str) -> tuple[str, str, str]:
    """State, UUID and content of one device; see `look`."""
    path = host.path(device)
    if not path.exists():
        return "missing", "", "no such file"
    if not is_block_device(path):
        return "not-block", "", "not a block device"
    if _has_no_medium(path):
        return "missing", "", "it has no medium"
    probe = dict(
        line.split("=", 1)
        for line in host.run(["blkid", "-p", "-o", "export", str(path)]).out.splitlines()
        if "=" in line
    )
    # PTTYPE is a partition table, which is content as much as a file system is.
    described = " ".join(
        f"{name} {probe[key]}"
        for key, name in (("TYPE", "type"), ("LABEL", "label"), ("PTTYPE", "partition table"), ("UUID", "UUID"))
        if key in probe
    )
    partitions = _partitions(path)
    if partitions:
        described = f"{described} with partitions {', '.join(partitions)}".strip()
    user = _user_of(path)
    ours = probe.get("TYPE") == "btrfs" and probe.get("LABEL") == LABEL
    if user:
        return "busy", probe.get("UUID", ""), f"{described or 'unknown content'}; {user}"
    if ours:
        return "pool", probe.get("UUID", ""), described
    signatures = host.run(["wipefs", "--no-act", "--noheadings", "--output", "TYPE,OFFSET", str(path)])
    found = [" at ".join(line.split()) for line in signatures.out.splitlines() if line.strip()]
    if described or found:
        return "used", probe.get("UUID", ""), described or "signatures: " + ", ".join(found)
    if signatures.code != 0:
        return "used", "", f"cannot be examined: {signatures.message}"
    where = _data_at(path)
    return ("used", "", f"no known file system, but data at the {where}") if where else ("blank", "", "")


def is_block_device(path: Path) -> bool:
    """Whether `path`, links followed, is a block device."""
    return stat.S_ISBLK(path.stat().st_mode)


def same_device(host: Host, one: str, other: str) -> bool:
    """Whether two names are the same device, links followed."""
    return bool(one and other) and os.path.realpath(host.path(one)) == os.path.realpath(host.path(other))


def _sysfs(path: Path) -> Path:
    return Path("/sys/class/block") / Path(os.path.realpath(path)).name


def _partitions(path: Path) -> list[str]:
    return sorted(one.parent.name for one in _sysfs(path).glob("*/partition"))


def _user_of(path: Path) -> str:
    """Who has the device: holders (RAID, LVM, dm), or, by an exclusive open, a mount or swap."""
    holders = sorted(one.name for one in _sysfs(path).glob("holders/*"))
    if holders:
        return f"held by {', '.join(holders)}"
    until = time.monotonic() + PROBED_SECONDS
    while True:
        try:
            os.close(os.open(path, os.O_RDONLY | os.O_EXCL))
        except OSError as error:
            if error.errno != errno.EBUSY:
                return f"cannot be opened: {error.strerror}"
        else:
            return ""
        if where := _mounted_from(path):
            return f"mounted at {where}"
        if time.monotonic() > until:
            opened = ", ".join(_opened_by(path))
            return f"in use ({f'opened by {opened}' if opened else 'swap or part of another device'})"
        time.sleep(0.2)


def _mounted_from(path: Path) -> str:
    """Where a file system of the device is mounted, as far as it is told by the device's name."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    return next(
        (one[1] for one in mounts if one[0][0] == "/" and os.path.realpath(one[0]) == os.path.realpath(path)), ""
    )


def _opened_by(path: Path) -> list[str]:
    """The processes here that have the device open, as `name (pid N)`."""
    device, found = path.stat().st_rdev, set()
    for opened in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):  # a process that ended meanwhile
            # by its name first: to look at a file of a network file system may take for ever
            if str(opened.readlink()).startswith("/dev/") and opened.stat().st_rdev == device:
                process = opened.parent.parent
                found.add(f"{(process / 'comm').read_text().strip()} (pid {process.name})")
    return sorted(found)


def _has_no_medium(path: Path) -> bool:
    """Whether there is a drive but nothing in it: such a device is of size 0, or cannot be opened."""
    try:
        with path.open("rb") as device:
            return device.seek(0, os.SEEK_END) == 0
    except OSError as error:
        return error.errno == errno.ENOMEDIUM


def _data_at(path: Path) -> str:
    """`start` or `end` where there is a byte that is not zero, else ""."""
    with path.open("rb") as device:
        size = device.seek(0, os.SEEK_END)
        for where, offset in (("start", 0), ("end", max(0, size - PROBE_BYTES))):
            device.seek(offset)
            if any(device.read(PROBE_BYTES)):
                return where
    return ""


def _mounted_at(host: Host, where: str) -> tuple[str, str]:
    """Source and type of the topmost mount at `where`; two empty strings if nothing is mounted there."""
    found = [fields for fields in _mounts(host) if fields[1] == where]
    return (found[-1][0], found[-1][2]) if found else ("", "")


def _filesystem_of(host: Host, where: str) -> str:
    """Type of the file system that `where` lies on, or will."""
    holding = [
        fields for fields in _mounts(host) if where == fields[1] or where.startswith(fields[1].rstrip("/") + "/")
    ]
    return max(holding, key=lambda fields: len(fields[1]))[2] if holding else ""


def _mounts(host: Host) -> list[list[str]]:
    return [line.split() for line in host.read("/proc/self/mounts").splitlines()]


def _entries(host: Host, where: str) -> list[str]:
    try:
        return sorted(one.name for one in host.path(where).iterdir())
    except OSError:
        return []
