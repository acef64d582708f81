"""The storage pool: may we have the devices, and is the pool there."""

from __future__ import annotations

import json
from collections.abc import Iterator

from appliance.node.health import blockdev, btrfs
from appliance.node.health.host import Host
from appliance.node.health.registry import Finding, check
from appliance.node.health.settings import Settings

UNIT = "/etc/systemd/system/var-lib-casemate-pool.mount"


@check("storage-device", "preflight")
def devices(host: Host, settings: Settings) -> Iterator[Finding]:
    """Whether the declared devices can become, or already are, the pool without losing anything."""
    found = blockdev.look(host, settings)
    if not found["devices"]:
        yield _forgotten(found) if found["mounted"] else _directory(found)
        return
    if found["mounted"] and not any(one["member"] for one in found["devices"]):
        yield _elsewhere(found)
        return
    findings = [finding for one in found["devices"] if (finding := _device(host, settings, found, one))]
    findings += [finding for finding in (_whole(host, found), _smaller(found), _hiding(host, found)) if finding]
    if all(finding.severity != "error" for finding in findings) and found["steps"]:
        findings.append(Finding(ok=True, evidence=f"will {', '.join(found['steps'])}"))
    names = ", ".join(one["name"] for one in found["devices"])
    whose = "held by our pool" if found["state"] == "pool" else "blank and will be formatted"
    yield from findings or [Finding(ok=True, evidence=f"{names}: {whose}")]


@check("storage-volumes", "preflight")
def volumes(host: Host, settings: Settings) -> Iterator[Finding]:
    """Whether what volumes hold fits into the sizes that are declared for them."""
    for one in settings.storage_volumes if blockdev.look(host, settings)["pool"] else ():
        size = btrfs.in_bytes(one.get("size") or "")
        used, _ = btrfs.limits(host, f"{blockdev.POOL}/volumes/{one['name']}") if size else (0, 0)
        if used > size:
            yield Finding(
                ok=False, of=one["name"],
                evidence=f"volume {one['name']} holds {used >> 20} MiB, its size in the inventory is {one['size']}",
                cause="a volume is not made smaller than what is in it",
                cure=f"give it at least {(used >> 20) + 1}M in storage_volumes, or remove files from it",
            )  # fmt: skip


def _forgotten(found: dict) -> Finding:
    name = found["mounted"]
    return Finding(
        ok=False,
        evidence=f"{name} is mounted at {blockdev.POOL}, but the inventory names no storage_device",
        cause="the pool of an earlier deploy is on a device that the inventory no longer knows",
        cure=f"set storage_device: {name} for this host",
    )


def _elsewhere(found: dict) -> Finding:
    mounted = found["mounted"]
    names = ", ".join(one["name"] for one in found["devices"])
    return Finding(
        ok=False,
        evidence=f"{mounted} is mounted at {blockdev.POOL}, the inventory says storage_device: {names}",
        cause="the pool is already on another device (device names can change at a boot)",
        cure=f"set storage_device: {mounted}, or better its name below /dev/disk/by-id/; to move the pool to "
        f"another device, name both in storage_devices first",
    )


def _device(host: Host, settings: Settings, found: dict, one: dict) -> Finding | None:
    """What is wrong with one of the devices."""
    name, state, content = one["name"], one["state"], one["content"]
    expected = _expected(host)
    if state == "pool" and not one["member"]:
        return _foreign(host, found, one)
    if state == "missing" and found["state"] == "pool":
        return Finding(
            ok=False,
            severity="warning",
            evidence=f"{name}: {content}",
            cause="a device of the pool is not there; what is written now has one copy only",
            cure="attach it, or put a new device in its place in storage_devices and deploy",
        )
    if state == "blank" and found["state"] != "pool" and expected:
        return Finding(
            ok=False,
            evidence=f"{name} is blank, {UNIT} mounts {expected}",
            cause="this host had a pool, and it is not on this device (names can change at a boot)",
            cure=f"name the right device (ls -l /dev/disk/by-id); to start afresh remove {UNIT}",
        )
    if state == "used" and settings.storage_format:
        return Finding(
            ok=False,
            severity="warning",
            evidence=f"{name} will be ERASED: {content}",
            cause="storage_format: true says that nothing on it is needed",
            cure="to keep what is on it, take storage_format out and name another device",
        )
    if state == "used":
        return Finding(
            ok=False,
            evidence=f"{name} is not empty: {content}",
            cause="a device with anything on it is formatted only if you say so",
            cure="name another device; or, if nothing on it is needed, set storage_format: true for this host",
        )
    if state in ("pool", "blank"):
        return None
    return Finding(
        ok=False,
        evidence=f"{name}: {content}",
        cause={
            "missing": "there is no such device on this host",
            "not-block": "the pool needs a block device: a disk, a partition or a logical volume",
            "busy": "the device is in use",
        }[state],
        cure="name a free device in storage_device (lsblk -f shows them), "
        "or set storage_device to an empty string to use a directory",
    )


def _foreign(host: Host, found: dict, one: dict) -> Finding | None:
    """A device that carries a pool of ours: is it this host's?"""
    expected, name = _expected(host), one["name"]
    this = found["pool"].get("uuid") or (expected if "/" not in expected else "") or found["uuid"]
    if one["uuid"] != this:
        return Finding(
            ok=False,
            evidence=f"{name} holds the pool {one['uuid']}, this host's is {this}",
            cause="this is the pool of another deploy, and two pools are not made one",
            cure=f"name another device; or, if nothing in that pool is needed, wipefs --all {name}; to take that pool "
            f"instead of this host's, remove {UNIT} and name its devices alone",
        )
    if found["pool"]:
        return Finding(
            ok=False,
            evidence=f"{name} was a device of this pool, which went on without it",
            cause="what is on it is out of date, and it is not taken back by itself",
            cure=f"wipefs --all {name}, then deploy: it is filled anew",
        )
    return None


def _whole(host: Host, found: dict) -> Finding | None:
    """Whether all devices of a pool that is not mounted yet are named, as far as they are on this host."""
    ours = [one for one in found["devices"] if one["state"] == "pool"]
    if found["pool"] or not ours or len(ours) >= ours[0]["of"]:
        return None
    named = {btrfs.kernel_name(host, one["name"]) for one in ours}
    asked = host.run(["blkid", "-c", "/dev/null", "-o", "device", "-t", f"UUID={found['uuid']}"]).out.split()
    others = [device for device in asked if btrfs.kernel_name(host, device) not in named]
    evidence = f"the pool {found['uuid']} has {ours[0]['of']} devices, {len(ours)} of them named and there"
    if others:
        return Finding(
            ok=False,
            evidence=f"{evidence}; {', '.join(others)} is of it too",
            cause="a pool is taken with all of its devices",
            cure=f"add {', '.join(others)} to storage_devices",
        )
    return Finding(
        ok=False,
        severity="warning",
        evidence=evidence,
        cause="the others are not on this host; the pool is taken up if it has a second copy of everything",
        cure="attach them; or deploy, then put new devices in their place",
    )


def _smaller(found: dict) -> Finding | None:
    """Whether a device is to leave the pool, and whether it can."""
    leaving = [step for step in found["steps"] if step.startswith("remove ")]
    if found["lacks"]:
        return Finding(
            ok=False,
            evidence=f"to {', '.join(leaving)} cannot be: {found['lacks']}",
            cause="a device leaves the pool only where the others can hold all of it",
            cure="name it in storage_devices again, name a further one beside it, or remove volumes and files first",
        )
    if leaving and len(found["devices"]) == 1:
        return Finding(
            ok=False,
            severity="warning",
            evidence=f"will {', '.join(leaving)}",
            cause="storage_devices names one device: the pool will have one copy of its data",
            cure="to keep two copies, name two devices",
        )
    return None


@check("storage", "doctor")
def pool(host: Host, settings: Settings) -> Finding:
    """Whether the pool that the host was given is there, and has room."""
    found = blockdev.look(host, settings)
    where = blockdev.POOL
    if _expected(host) and not found["mounted"]:
        return Finding(
            ok=False,
            evidence=f"nothing is mounted at {where}",
            cause=f"the pool {_expected(host)}: its devices are missing or it would not mount; pods that claim "
            "its volumes wait, others run",
            cure=f"systemctl status {UNIT.rsplit('/', 1)[1]}; attach its devices, then systemctl start it",
        )
    if not host.path(where).is_dir():
        return Finding(
            ok=False,
            evidence=f"{where} does not exist",
            cause="the storage role has not run here, or the directory was removed",
            cure="appliance deploy",
        )
    free = host.free_mib(where)
    if free < settings.disk_spare_mib:
        return Finding(
            ok=False,
            evidence=f"{free} MiB free on {where}",
            cause="the pool is nearly full",
            cure="remove images and volumes that are not needed, or enlarge the device",
        )
    if not found["mounted"]:
        return _directory(found)
    return Finding(ok=True, evidence=f"{found['mounted']} ({found['filesystem']}) at {where}, {free} MiB free")


def _directory(found: dict) -> Finding:
    """A pool without a device: right for a try, and said plainly."""
    evidence = f"the pool is a plain directory on {found['filesystem'] or 'unknown'}: {blockdev.POOL}"
    if found["filesystem"] == "btrfs":
        return Finding(ok=True, evidence=evidence)
    return Finding(
        ok=False,
        severity="warning",
        evidence=evidence,
        cause="no storage_device is given, so there are no snapshots, and pods can fill the system's disk",
        cure="set storage_device to a free block device before the first deploy, if you want either",
    )


def _hiding(host: Host, found: dict) -> Finding | None:
    """Mounting over a directory in use would hide what pods have written there."""
    if not found["entries"] or found["mounted"] or _expected(host):
        return None
    return Finding(
        ok=False,
        evidence=f"{blockdev.POOL} is a directory with {', '.join(found['entries'][:5])} in it",
        cause="the pool was a directory until now; the device would be mounted over it and hide its content",
        cure=f"stop the pods and move {blockdev.POOL} away, or set storage_device to an empty string",
    )


def _expected(host: Host) -> str:
    """The pool that was declared, by its UUID or, on hosts of old, by the device of its mount unit; "" for none."""
    unit = host.read(UNIT)
    try:
        known = json.loads(host.read("/etc/casemate/storage.json"))["uuid"] if unit else ""
    except (ValueError, KeyError):
        known = ""
    old = [line.split("=", 1)[1].strip() for line in unit.splitlines() if line.startswith("What=")]
    return known or "".join(old[:1]).removeprefix("/dev/disk/by-uuid/")
