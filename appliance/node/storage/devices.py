"""`casemate-storage`: brings the pool to the devices that are declared for it.

One JSON object on stdout, what it is doing on stderr; exit code 1 and a line of words where it fails.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from appliance.node.health import blockdev, btrfs
from appliance.node.health.host import Host
from appliance.node.health.pool import Step
from appliance.node.health.settings import Settings

from .declared import LINK, POOL, StorageError, load

UNIT = "casemate-storage.service"
_CONTROL = Path("/dev/btrfs-control")
_LOOK_SECONDS = 2  # how often the kernel is asked whether it is done
_DEVICES_SECONDS = 30  # after which a boot goes on with the devices that are there
_APPLY_SECONDS = 30  # after which a deploy goes on, and the work beside it
_IDLE = ("none", "balance paused")


def main(argv: list[str] | None = None) -> int:
    """Run one verb."""
    parser = argparse.ArgumentParser(prog="casemate-storage", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    verbs.add_parser("apply", help=f"have {UNIT} do what is to be done, and wait a moment for it")
    verbs.add_parser("settle", help="do it: replace, add, resize, balance, remove; goes on where it was cut off")
    verbs.add_parser("await", help="wait until the pool's devices are there, and tell the kernel of them")
    asked = parser.parse_args(argv)
    try:
        print(json.dumps({"apply": apply, "settle": settle, "await": await_devices}[asked.verb]()))
    except (StorageError, OSError) as error:
        print(f"casemate-storage: {error}", file=sys.stderr)
        return 1
    return 0


def apply() -> dict:
    """{"changed", "done": [words], "under_way": [words]}. Raises StorageError where it cannot be, or failed."""
    steps = [str(step) for step in _plan()]
    if not steps:
        return {"changed": False, "done": [], "under_way": []}
    subprocess.run(["systemctl", "reset-failed", UNIT], capture_output=True, check=False)
    _run("systemctl", "start", "--no-block", UNIT)
    deadline = time.monotonic() + _APPLY_SECONDS
    state = ["activating", "start"]
    while state == ["activating", "start"] and time.monotonic() < deadline:
        time.sleep(0.5)
        state = _run("systemctl", "show", "-P", "ActiveState,SubState", UNIT).split()
    if state[0] == "failed" or state[-1].startswith("auto-restart"):
        words = subprocess.run(["journalctl", "-u", UNIT, "-n", "20", "-o", "cat", "--no-pager"], capture_output=True,
                               text=True, check=False).stdout  # fmt: skip
        ours = [line for line in words.splitlines() if line.startswith("casemate-storage: ")]
        raise StorageError(ours[-1].removeprefix("casemate-storage: ") if ours else f"see: journalctl -u {UNIT}")
    left = [str(step) for step in _plan()]
    return {"changed": True, "done": [one for one in steps if one not in left], "under_way": left}


def settle() -> dict:
    """{"done": [words]}. Does one step after the other, each from a new look, until there is none."""
    done: list[str] = []
    while steps := _plan(wait=True):
        step = steps[0]
        if str(step) in done:
            raise StorageError(f"to {step} did not help; see: btrfs filesystem usage {POOL}; journalctl -k")
        print(f"going to {step}", file=sys.stderr, flush=True)
        _do(step)
        done.append(str(step))
    return {"done": done}


def await_devices() -> dict:
    """{"there": [path]}. The kernel is told of them, which no udev does in a container, and LINK names one."""
    known = load()
    if not known.uuid:
        return {"there": []}
    if not _CONTROL.exists():  # in a container
        _run("btrfs", "rescue", "create-control-device")
    deadline = time.monotonic() + _DEVICES_SECONDS
    while True:
        asked = Host().run(["blkid", "-c", "/dev/null", "-o", "device", "-t", f"UUID={known.uuid}"], timeout=60)
        there = asked.out.split()
        of = max((btrfs.superblock(Path(one)).get("devices", 1) for one in there), default=1)
        if len(there) >= of or time.monotonic() > deadline:
            break
        time.sleep(1)
    if len(there) < of:
        print(f"of the pool's {of} devices there are {len(there)}: {', '.join(there)}", file=sys.stderr)
    for one in there:
        _run("btrfs", "device", "scan", one)
    _link(there)
    return {"there": there}


def _link(there: list[str]) -> None:
    """Name one of the devices for the mount unit, none where there is none."""
    LINK.parent.mkdir(parents=True, exist_ok=True)
    new = LINK.with_name(f"{LINK.name}.new")
    new.unlink(missing_ok=True)
    if not there:
        LINK.unlink(missing_ok=True)
        return
    new.symlink_to(there[0])
    new.replace(LINK)


def _plan(wait: bool = False) -> list[Step]:
    """What is to be done now, by a look at everything; after `wait` for what the kernel does by itself."""
    known, host = load(), Host()
    settings = Settings(storage_devices=known.devices, storage_format=known.erase)
    while True:
        found = blockdev.look(host, settings)
        if not found["pool"] or not known.devices:
            return []  # not mounted, or no device: doctor tells
        if not wait or found["pool"]["busy"] in _IDLE:
            break
        time.sleep(_LOOK_SECONDS)
    if found["lacks"]:
        raise StorageError(f"{', '.join(found['steps'])}: {found['lacks']}")
    return blockdev.plan(found["devices"], found["pool"], erase=known.erase)[1]


def _do(step: Step) -> None:
    pool, force = str(POOL), ["-f"] if load().erase else []
    if step.do == "replace":
        try:
            _run("btrfs", "replace", "start", "-B", *force, str(step.id), step.device, pool)
        except StorageError as error:
            if "smaller" not in str(error):
                raise
            _run("btrfs", "device", "add", *force, step.device, pool)  # the other one leaves by itself then
    elif step.do == "add":
        _run("btrfs", "device", "add", *force, step.device, pool)
    elif step.do == "resize":
        _run("btrfs", "filesystem", "resize", f"{step.id}:max", pool)
    elif step.do == "balance":
        # One that was killed is in the way of another; with `soft`, what it has done is not done again.
        subprocess.run(["btrfs", "balance", "cancel", pool], capture_output=True, check=False)
        _run("btrfs", "balance", "start", "-f", f"-dconvert={step.data},soft", f"-mconvert={step.metadata},soft", pool)
    else:
        _run("btrfs", "device", "remove", step.device, pool)


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise StorageError(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()}")
    return done.stdout
