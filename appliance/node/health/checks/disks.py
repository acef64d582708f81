"""The pool's devices: are all there and sound, is what they hold sound, is a volume full."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace

from appliance.node.health import blockdev, btrfs
from appliance.node.health.host import Host
from appliance.node.health.registry import Finding, check
from appliance.node.health.settings import Settings

_DECLARED, _SNAPSHOTS = "/etc/casemate/storage.json", "/var/lib/casemate/snapshots.json"
_UNIT, _SCRUB = "casemate-storage.service", "casemate-scrub.service"
_SMART_FAILED = 1 << 3  # of smartctl's exit code: the disk says of itself that it is failing
_FULL_PERCENT = 95


@check("storage-devices", "doctor")
def devices(host: Host, settings: Settings) -> Iterator[Finding]:
    """Whether each device of the pool is there, and the pool as declared; nothing where there is no device."""
    found = _pool(host, settings)
    if not found["pool"]:
        return
    members, busy = found["pool"]["members"], found["pool"]["busy"]
    missing = [one for one in members if one["missing"]]
    names = ", ".join(f"{one['device']} ({one['size'] >> 20} MiB)" for one in members if not one["missing"])
    if missing:
        yield Finding(
            ok=False,
            evidence=f"the pool is degraded: {len(missing)} of {len(members)} devices missing; there: {names}",
            cause="a disk failed or was taken out; what is in the pool has one copy only",
            cure="attach it and reboot; or put a new device in its place in storage_devices, then: appliance deploy",
        )
    result = host.run(["systemctl", "show", "-P", "Result", _UNIT]).out.strip()
    failed = _last_words(host) if result not in ("", "success") else ""
    if failed:
        yield Finding(
            ok=False, of="work", evidence=failed,
            cause=f"{_UNIT} could not bring the pool to its declared devices; it tries again by itself",
            cure=f"journalctl -u {_UNIT}; put right what it says, then appliance deploy",
        )  # fmt: skip
    elif busy != "none" or found["steps"]:
        doing = f"under way: {busy}{_progress(host, busy)}" if busy != "none" else "waiting"
        yield Finding(ok=True, of="work", evidence=f"{doing}; left to do: {', '.join(found['steps']) or 'nothing'}")
    if not missing:
        yield Finding(ok=True, evidence=f"{names}; data {', '.join(found['pool']['profiles']['data'])}")


@check("storage-errors", "doctor")
def errors(host: Host, settings: Settings) -> Iterator[Finding]:
    """Whether btrfs met errors of a device, and what the last scrub found."""
    found = _pool(host, settings)
    if not found["pool"]:
        return
    for one in found["pool"]["members"]:
        counted = {kind: count for kind, count in one["errors"].items() if count}
        if counted:
            words = ", ".join(f"{count} {kind.removesuffix('_errs')}" for kind, count in counted.items())
            name = one["device"] or f"device {one['id']}"
            yield Finding(
                ok=False, of=one["name"] or str(one["id"]), evidence=f"errors of {name}: {words}",
                cause="the device, its cable or its controller is failing, or it was away for a while",
                cure=f"systemctl start {_SCRUB}; if they grow, replace it in storage_devices; to count anew: "
                f"btrfs device stats --reset {blockdev.POOL}",
            )  # fmt: skip
    told = dict(re.findall(r"^\s*([^:\n]+):\s+(.+)$", host.run(["btrfs", "scrub", "status", "-R", blockdev.POOL]).out,
                           re.MULTILINE))  # fmt: skip
    when, state = told.get("Scrub started") or told.get("Scrub resumed"), told.get("Status", "")
    fixed, lost = int(told.get("corrected_errors", 0)), int(told.get("uncorrectable_errors", 0))
    if lost:
        yield Finding(
            ok=False,
            evidence=f"scrub of {when}: {lost} errors that could not be corrected, {fixed} that were",
            cause="files are damaged, and there is no second copy of them that is sound",
            cure="journalctl -k | grep -i 'checksum error' names them; restore their volumes from a backup",
        )
    elif fixed:
        yield Finding(
            ok=False,
            severity="warning",
            evidence=f"scrub of {when}: {fixed} errors, all of them corrected from the other copy",
            cause="a device gives back other data than was written to it",
            cure=f"watch it: systemctl start {_SCRUB}, then appliance doctor; if it goes on, replace the device",
        )
    else:
        yield Finding(ok=True, evidence=f"no errors; scrub of {when}: {state}" if when else "no errors; no scrub yet")


@check("storage-smart", "doctor")
def smart(host: Host, settings: Settings) -> Iterator[Finding]:
    """What the disks say of themselves; nothing for a device that is no disk, or tells nothing."""
    for one in _pool(host, settings)["pool"].get("members", ()):
        if one["missing"] or not host.path(f"/sys/class/block/{one['name']}").exists():
            continue
        asked = host.run(["smartctl", "--health", "--json", one["device"]], timeout=30)
        try:
            passed = json.loads(asked.out)["smart_status"]["passed"]
        except (ValueError, KeyError):
            continue  # no SMART here: that is neither good nor bad
        if passed and not asked.code & _SMART_FAILED:
            yield Finding(ok=True, of=one["name"], evidence=f"{one['device']}: SMART says it is sound")
        else:
            yield Finding(
                ok=False, of=one["name"], evidence=f"{one['device']}: SMART says it is failing",
                cause="the disk foresees its own end", cure="replace it in storage_devices; see smartctl -a",
            )  # fmt: skip


@check("storage-volumes", "doctor")
def volumes(host: Host, settings: Settings) -> Iterator[Finding]:
    """Whether a volume is full, and whether snapshots had to make room."""
    found = _pool(host, settings)
    if not found["pool"]:
        return
    for path in sorted(host.path(f"{blockdev.POOL}/volumes").glob("*")):
        used, size = btrfs.limits(host, f"{blockdev.POOL}/volumes/{path.name}")
        if size and used * 100 >= size * _FULL_PERCENT:
            yield Finding(
                ok=False, severity="warning", of=path.name,
                evidence=f"volume {path.name}: {used >> 20} of {size >> 20} MiB used",
                cause="the volume is full, or nearly: its pods cannot write",
                cure="raise its size in storage_volumes and deploy, or remove files from it",
            )  # fmt: skip
    last = _json(host, _SNAPSHOTS)
    if last.get("early") or last.get("refused"):
        yield Finding(
            ok=False, severity="warning", of="snapshots",
            evidence=f"removed early: {', '.join(last['early']) or 'none'}; not made: "
            f"{', '.join(last['refused']) or 'none'}",
            cause="less of the pool is free than storage_snapshots_spare says",
            cure="add or enlarge a device, keep fewer snapshots, or remove what is not needed",
        )  # fmt: skip


def _pool(host: Host, settings: Settings) -> dict:
    """blockdev.look with the devices that are declared on the host."""
    known = _json(host, _DECLARED)
    asked = {"storage_devices": known.get("devices", []), "storage_format": known.get("erase", False)}
    return blockdev.look(host, replace(settings, **asked))


def _last_words(host: Host) -> str:
    lines = host.run(["journalctl", "-u", _UNIT, "-n", "20", "-o", "cat", "--no-pager"]).out.splitlines()
    ours = [line.partition(": ")[2] for line in lines if line.startswith("casemate-storage: ")]
    return ours[-1] if ours else f"{_UNIT} failed"


def _progress(host: Host, busy: str) -> str:
    """How far it is, in btrfs' own words."""
    kind = {"balance": ["balance", "status"], "device replace": ["replace", "status", "-1"]}.get(busy)
    if kind is None:
        return ""
    return f" ({host.run(['btrfs', *kind, blockdev.POOL]).message})"


def _json(host: Host, name: str) -> dict:
    try:
        return json.loads(host.read(name))
    except ValueError:
        return {}
