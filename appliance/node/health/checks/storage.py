"""The storage pool: may we have the device, and is the pool there."""

from __future__ import annotations

from appliance.node.health import blockdev
from appliance.node.health.host import Host
from appliance.node.health.registry import Finding, check
from appliance.node.health.settings import Settings

UNIT = "/etc/systemd/system/var-lib-casemate-pool.mount"


@check("storage-device", "preflight")
def device(host: Host, settings: Settings) -> Finding:
    """Whether the declared device can become, or already is, the pool without losing anything."""
    pool, wanted = blockdev.POOL, settings.storage_device
    found = blockdev.look(host, settings)
    mounted = found["mounted"]
    if not wanted:
        if mounted:
            return Finding(
                ok=False,
                evidence=f"{mounted} is mounted at {pool}, but the inventory names no storage_device",
                cause="the pool of an earlier deploy is on a device that the inventory no longer knows",
                cure=f"set storage_device: {mounted} for this host",
            )
        return _directory(found)
    if mounted and not blockdev.same_device(host, mounted, wanted):
        return Finding(
            ok=False,
            evidence=f"{mounted} is mounted at {pool}, the inventory says storage_device: {wanted}",
            cause="the pool is already on another device (device names can change at a boot)",
            cure=f"set storage_device: {mounted}, or better its name below /dev/disk/by-id/",
        )
    state, content = found["state"], found["content"]
    if state == "pool":
        expected = _expected(host)
        if expected and found["by_uuid"] and found["uuid"] and not expected.endswith(found["uuid"]):
            return Finding(
                ok=False,
                evidence=f"{wanted} holds the pool {found['uuid']}, {UNIT} mounts {expected}",
                cause="this is the pool of another deploy; the one in use until now is not mounted",
                cure=f"attach the earlier device, or remove {UNIT} to take this one",
            )
        return _unless_hiding(host, found, f"{wanted} holds our pool ({content})")
    if state == "blank":
        expected = _expected(host)
        if expected:
            return Finding(
                ok=False,
                evidence=f"{wanted} is blank, {UNIT} mounts {expected}",
                cause="this host had a pool, and it is not on this device (names can change at a boot)",
                cure=f"name the right device (ls -l /dev/disk/by-id); to start afresh remove {UNIT}",
            )
        return _unless_hiding(host, found, f"{wanted} is blank and will be formatted")
    if state == "used" and settings.storage_format:
        hidden = _unless_hiding(host, found, "")
        return (
            hidden
            if not hidden.ok
            else Finding(
                ok=False,
                severity="warning",
                evidence=f"{wanted} will be ERASED: {content}",
                cause="storage_format: true says that nothing on it is needed",
                cure="to keep what is on it, take storage_format out and name another device",
            )
        )
    if state == "used":
        return Finding(
            ok=False,
            evidence=f"{wanted} is not empty: {content}",
            cause="a device with anything on it is formatted only if you say so",
            cure="name another device; or, if nothing on it is needed, set storage_format: true for this host",
        )
    return Finding(
        ok=False,
        evidence=f"{wanted}: {content}",
        cause={
            "missing": "there is no such device on this host",
            "not-block": "the pool needs a block device: a disk, a partition or a logical volume",
            "busy": "the device is in use",
        }[state],
        cure="name a free device in storage_device (lsblk -f shows them), "
        "or set storage_device to an empty string to use a directory",
    )


@check("storage", "doctor")
def pool(host: Host, settings: Settings) -> Finding:
    """Whether the pool that the host was given is there, and has room."""
    found = blockdev.look(host, settings)
    where = blockdev.POOL
    if _expected(host) and not found["mounted"]:
        return Finding(
            ok=False,
            evidence=f"nothing is mounted at {where}",
            cause=f"the pool's device {_expected(host)} is missing or would not mount",
            cure=f"systemctl status {UNIT.rsplit('/', 1)[1]}; attach the device, then systemctl start it",
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


def _unless_hiding(host: Host, found: dict, evidence: str) -> Finding:
    """Mounting over a directory in use would hide what pods have written there."""
    if found["entries"] and not found["mounted"] and not _expected(host):
        return Finding(
            ok=False,
            evidence=f"{blockdev.POOL} is a directory with {', '.join(found['entries'][:5])} in it",
            cause="the pool was a directory until now; the device would be mounted over it and hide its content",
            cure=f"stop the pods and move {blockdev.POOL} away, or set storage_device to an empty string",
        )
    return Finding(ok=True, evidence=evidence)


def _expected(host: Host) -> str:
    """The device that the mount unit names; "" if there is no unit."""
    for line in host.read(UNIT).splitlines():
        if line.startswith("What="):
            return line.split("=", 1)[1].strip()
    return ""
