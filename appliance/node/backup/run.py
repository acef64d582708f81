"""Making one backup: hooks, a moment of all volumes, restic; and keeping as many as the policy says."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from appliance.node.microvm import mounts
from appliance.node.microvm.store import read_json, write_json
from appliance.node.storage import declared as storage

from . import contents, hooks, images, pool, selection, settings
from .restic import Restic, ResticError
from .selection import Filter
from .settings import STAGE, STATE, STATUS, BackupError

TAG, EVERYTHING, PART, UNTIL = "casemate", "everything", "part", "until-"
_SPARE_BYTES = 256 << 20  # what a local repository's file system has to have left, besides a first backup


def status() -> dict:
    """What is known of backups here, {} before the first.

    {"phase", "percent", "began", "pid": of the last run, "last": how it ended, "last_good", "verified": seconds since
    the epoch}. How a run ended: {"ok", "error", "id", "began", "ended", "bytes", "added", "everything", "consistent"}.
    """
    return read_json(STATUS) or {}


@contextlib.contextmanager
def alone(what: str) -> Iterator[None]:
    """Hold this host's backups for one run. Raises BackupError where another has them."""
    STATE.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (STATE / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise BackupError(
                f"{lock.read().strip() or 'another run'} is under way on this host; wait for it"
            ) from None
        lock.truncate(0)
        lock.write(f"{what}, pid {os.getpid()}, since {time.strftime('%H:%M:%S')}")
        lock.flush()
        note(phase=what.partition(" ")[2], percent=0, began=time.time(), pid=os.getpid())
        try:
            yield
        finally:
            note(phase="idle", percent=0)


def is_under_way() -> bool:
    """Whether the last run that `status` knows of still is one."""
    try:
        return b"casemate-backup" in Path(f"/proc/{status()['pid']}/cmdline").read_bytes()
    except (OSError, KeyError):
        return False


def backup(wanted: Filter, report: Callable[[str], None], keep: bool = False, seconds: int = 0) -> dict:
    """Save what `wanted` selects; the outcome, see `status`. With `keep`, forget what the policy no longer keeps.

    With `seconds` this backup is kept for so long, whatever the policy says. The process has mounts of its own from now
    on, so that what is mounted for it goes with it, however it ends. Raises BackupError, SelectionError.
    """
    configured = settings.load()
    began = time.time()
    mounts.enter_own_namespace()
    with alone("a backup"):
        try:
            outcome = _backup(configured, wanted, report, began, seconds)
        except Exception as error:
            note(last={"ok": False, "error": str(error), "began": began, "ended": time.time()})
            raise
        if keep:
            forget(configured, report)
        return outcome


def forget(configured: settings.Settings, report: Callable[[str], None], dry: bool = False) -> dict:
    """Remove what the policy does not keep, and what nothing needs then: {"kept": [id], "removed": [id]}.

    Whole and partial backups are counted apart, and of each kind the last is always kept; those that were made with a
    time of their own go when it is over. Raises BackupError.
    """
    report("removing what the policy does not keep")
    restic = Restic(configured)
    over = expired(restic.snapshots(), time.time())
    if over and not dry:
        restic.run("forget", *over)
    policy = {"last": 1} | configured.keep
    policy["last"] = max(1, policy["last"])
    words = [word for name, count in sorted(policy.items()) for word in (f"--keep-{name}", str(count))]
    words += ["--host", configured.host, "--tag", TAG, "--group-by", "host,tags", "--dry-run" if dry else "--prune"]
    told = restic.run("forget", "--json", *words)
    # what prune says comes after it
    groups, _ = json.JSONDecoder().raw_decode(told, told.index("[")) if "[" in told else ([], 0)
    kept = [one["short_id"] for group in groups for one in group.get("keep") or []]
    if not dry:
        write_json(settings.MADE, {name: one for name, one in made().items() if name in kept})
    removed = [one["short_id"] for group in groups for one in group.get("remove") or []]
    return {"kept": [one for one in kept if one not in over], "removed": [*over, *removed]}


def expired(snapshots: list[dict], now: float) -> list[str]:
    """Of restic's snapshots, oldest first, the ids of those whose own time is over; never of the last whole one."""
    whole = [one["short_id"] for one in snapshots if EVERYTHING in one["tags"]]
    return [one["short_id"] for one in snapshots if 0 < until(one) < now and one["short_id"] not in whole[-1:]]


def until(snapshot: dict) -> float:
    """Until when a snapshot is kept, in seconds since the epoch; 0 where the policy decides."""
    return next((float(tag.removeprefix(UNTIL)) for tag in snapshot["tags"] if tag.startswith(UNTIL)), 0.0)


def made() -> dict[str, dict]:
    """Of the backups that were made here, by id: {"bytes", "added", "seconds"}."""
    return read_json(settings.MADE) or {}


def _backup(configured: settings.Settings, wanted: Filter, report: Callable[[str], None], began: float,
            seconds: int) -> dict:  # fmt: skip
    storage.require_pool()  # or a backup without volumes would look whole
    restic = Restic(configured)
    declared, pods, volumes = contents.catalog()
    selected = selection.select(pods, volumes, wanted)
    chosen = [declared[name] for name in selected.pods]
    consistent = pool.is_btrfs()
    with hooks.around(chosen, report) as over, pool.frozen(list(selected.volumes)) as frozen:
        if consistent:
            over()  # pods go on as soon as the moment is taken
        described = contents.describe(
            configured, selected, wanted, {name: pool.usage(name) for name in selected.volumes}, consistent
        )  # fmt: skip
        shown = {f"volumes/{name}": path for name, path in frozen.items()}
        if configured.images:
            shown[f"{images.FOLDER}/blobs"] = images.blobs()
        with _staged(described, selected, shown):
            _refuse_if_full(configured, list(shown.values()))
            report("saving")
            note(phase="saving")
            told = _save(configured, restic, wanted, report, seconds)
    outcome = {"ok": True, "error": "", "id": told["snapshot_id"][:8], "began": began, "ended": time.time(),
               "bytes": told["total_bytes_processed"], "added": told["data_added"], "consistent": consistent,
               "everything": wanted.is_everything}  # fmt: skip
    note(last=outcome, **({"last_good": outcome} if wanted.is_everything else {}))
    size = {"bytes": outcome["bytes"], "added": outcome["added"], "seconds": round(outcome["ended"] - began, 1)}
    write_json(settings.MADE, made() | {outcome["id"]: size})
    return outcome


def _make_repository(restic: Restic, report: Callable[[str], None]) -> None:
    if good := status().get("last_good"):
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(good["ended"]))
        raise BackupError(
            f"the repository is gone: the last good backup was made at {when}, and nothing is there now. "
            f"Is its disk mounted? For a new one: rm {STATUS}"
        )
    report("making the repository")
    restic.run("init")


@contextlib.contextmanager
def _staged(described: dict, selected: selection.Selection, shown: dict[str, Path]) -> Iterator[None]:
    """Lay out the backup in STAGE: copies of small files, and what is mounted there, by the path in it."""
    _clear_stage()
    STAGE.mkdir(mode=0o700, parents=True)
    try:
        contents.write(STAGE, described, selected)
        for name, path in shown.items():
            target = STAGE / name
            target.mkdir(parents=True)
            mounts.bind(str(path), str(target), read_only=True)
        yield
    finally:
        mounts.unmount_below(STAGE)
        _clear_stage()


def _clear_stage() -> None:
    """Remove what a run left; never through a mount."""
    if mounted := mounts.below(STAGE):
        raise BackupError(f"{mounted[0]} is mounted: another run has this host's stage")
    shutil.rmtree(STAGE, ignore_errors=True)


def _refuse_if_full(configured: settings.Settings, mounted: list[Path]) -> None:
    """A repository on a disk of this host must not fill it up."""
    directory = Path(configured.repository.removeprefix("local:"))
    if not directory.is_absolute():
        return
    while not directory.is_dir():
        directory = directory.parent
    needed = _SPARE_BYTES
    if not status().get("last_good"):  # the first one saves it all
        used = subprocess.run(["du", "-sxB1", str(STAGE), *map(str, mounted)], capture_output=True, text=True,
                              check=False)  # fmt: skip
        needed += sum(int(line.split()[0]) for line in used.stdout.splitlines())
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise BackupError(
            f"{directory} has {free >> 20} MiB left and the backup may need {needed >> 20}: free some space, or keep "
            "fewer (backup_keep, then appliance backup prune)"
        )


def _save(configured: settings.Settings, restic: Restic, wanted: Filter, report: Callable[[str], None],
          seconds: int) -> dict:  # fmt: skip
    """What restic says of the backup that it made. A repository is made where there never was one."""
    summary: dict = {}
    said = 0.0

    def on_json(told: dict) -> None:
        nonlocal said
        if told.get("message_type") == "summary":
            summary.update(told)
        elif told.get("message_type") == "status" and time.monotonic() - said > 1:
            said = time.monotonic()
            percent = round(100 * told.get("percent_done", 0))
            note(phase="saving", percent=percent)
            report(f"saving: {percent} %, {told.get('bytes_done', 0) >> 20} of {told.get('total_bytes', 0) >> 20} MiB")

    words = [word for pattern in configured.exclude for word in ("--exclude", pattern)]
    tags = f"{TAG},{EVERYTHING if wanted.is_everything else PART}"
    tags += f",{UNTIL}{time.time() + seconds:.0f}" if seconds else ""
    words = ["backup", ".", "--json", "--host", configured.host, "--tag", tags, *words]
    how = {"cwd": STAGE, "on_json": on_json, "on_retry": lambda line: report(f"trying again: {line}")}
    try:
        try:
            # not asked for first: a call of restic takes a second, and there nearly always is one
            restic.run(*words, **how)
        except ResticError as error:
            if error.kind != "missing":
                raise
            _make_repository(restic, report)
            restic.run(*words, **how)
    except ResticError as error:
        if summary:  # it ended with 3: some files could not be read
            raise BackupError(
                f"backup {summary['snapshot_id'][:8]} was made, but not of all files: {error.said[-300:]}"
            ) from None
        raise
    return summary


def note(**fields: object) -> None:
    """Remember these of `status`."""
    write_json(STATUS, status() | fields)
