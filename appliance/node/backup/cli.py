"""`casemate-backup VERB`: backups of this host, and what comes back from them.

One JSON object each on stdout, what it is doing on stderr; exit code 1 and a line of words where it fails.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time

from appliance.node.storage.declared import StorageError

from . import guard, restore, run, settings
from .restic import Restic, shown
from .selection import Filter, SelectionError
from .settings import BackupError


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="casemate-backup", description=__doc__)
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    one = verbs.add_parser("now", help="make a backup")
    _with_filter(one)
    one.add_argument("--keep", action="store_true", help="then forget what the policy does not keep")
    one.add_argument("--ttl", type=int, default=0, metavar="SECONDS", help="keep it for so long, whatever the policy")
    verbs.add_parser("list", help="the backups of this host, oldest first")
    one = verbs.add_parser("show", help="what is in a backup")
    _with_snapshot(one)
    one = verbs.add_parser("verify", help="read the repository and compare all of it with its checksums")
    one.add_argument("--part", default="", metavar="N%", help="only so much of the data, chosen by chance")
    one = verbs.add_parser("prune", help="forget what the policy does not keep, and free its space")
    one.add_argument("--dry-run", action="store_true", help="only say what would be removed")
    one = verbs.add_parser("restore", help="bring pods and volumes back")
    _with_snapshot(one)
    _with_filter(one)
    one.add_argument("--as", dest="as_name", default="", metavar="NAME", help="beside what is there, by this name")
    one.add_argument("--dry-run", action="store_true", help="only say what would be replaced")
    one.add_argument("--from", dest="from_host", default="", metavar="HOST", help="a backup of another host")
    verbs.add_parser("status", help="the last run, how far one is that is under way, and when the next one is")
    one = verbs.add_parser("restic", help="restic on this host's repository, for all that there is no verb for")
    one.add_argument("words", nargs=argparse.REMAINDER, metavar="WORD")
    one = verbs.add_parser("guard", help="start the pods that a process stopped, when it has ended")
    one.add_argument("pid")
    return top


def _with_filter(verb: argparse.ArgumentParser) -> None:
    for name in ("pod", "volume", "exclude-pod", "exclude-volume"):
        verb.add_argument(f"--{name}", action="append", default=[], metavar="NAME")
    verb.add_argument("--selector", default="", metavar="LABELS")


def _with_snapshot(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--snapshot", default="latest", metavar="ID")


def main(argv: list[str] | None = None) -> int:
    """Run one verb."""
    asked = parser().parse_args(argv)
    if asked.verb == "guard":
        guard.watch(asked.pid, _report)
        return 0
    do = {"now": _now, "list": _list, "show": _show, "verify": _verify, "prune": _prune, "restore": _restore,
          "status": _status, "restic": _restic}[asked.verb]  # fmt: skip
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # what has to be put right is
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # whoever asked is gone: it comes to its end, and `status` tells
    try:
        print(json.dumps(do(asked)))
    except (BackupError, SelectionError, StorageError, OSError) as error:
        print(f"casemate-backup: {error}", file=sys.stderr)
        return 1
    return 0


def _now(asked: argparse.Namespace) -> dict:
    return run.backup(_filter(asked), _report, keep=asked.keep, seconds=asked.ttl)


def _list(asked: argparse.Namespace) -> dict:
    """{"repository", "backups": [{"id", "time", "everything", "until", "bytes", "added", "seconds"}], "last",
    "last_good"}; `until` 0 where the policy decides, sizes None of backups that another host by this name made.
    """
    configured = settings.load()
    unknown, made = {"bytes": None, "added": None, "seconds": None}, run.made()
    found = [
        {"id": one["short_id"], "time": one["time"], "everything": run.EVERYTHING in one["tags"],
         "until": run.until(one)} | made.get(one["short_id"], unknown)
        for one in Restic(configured).snapshots()
    ]  # fmt: skip
    known = run.status()
    return {"repository": shown(configured.repository), "backups": found, "last": known.get("last"),
            "last_good": known.get("last_good")}  # fmt: skip


def _show(asked: argparse.Namespace) -> dict:
    restic = Restic(settings.load())
    snapshot = restore.chosen(restic, asked.snapshot)
    return {"id": snapshot[:8]} | restore.described(restic, snapshot)


def _verify(asked: argparse.Namespace) -> dict:
    """{"verified": seconds since the epoch}; raises where anything is not what was written."""
    part = ["--read-data-subset", asked.part] if asked.part else ["--read-data"]
    with run.alone("a verification"):
        Restic(settings.load()).run("check", *part)
        run.note(verified=time.time())
    return {"verified": run.status()["verified"]}


def _status(asked: argparse.Namespace) -> dict:
    """What run.status has, with {"repository", "schedule", "next": seconds since the epoch, 0 for none, "keep",
    "max_age_hours"}.
    """
    configured = settings.load()
    known = run.status()
    if known.get("phase", "idle") != "idle" and not run.is_under_way():
        known |= {"phase": "cut short", "percent": 0}
    return known | {
        "repository": shown(configured.repository), "schedule": configured.schedule, "next": _next_run(),
        "keep": configured.keep, "max_age_hours": configured.max_age_hours,
    }  # fmt: skip


def _next_run() -> float:
    argv = ["systemctl", "list-timers", "--output=json", "casemate-backup.timer"]
    said = subprocess.run(argv, capture_output=True, text=True, check=False).stdout
    return sum(one["next"] or 0 for one in json.loads(said or "[]")) / 1e6


def _restic(asked: argparse.Namespace) -> int:
    """Does not return."""
    restic = Restic(settings.load())
    os.execvpe("restic", restic.argv(*asked.words), restic.environment)  # noqa: S606


def _prune(asked: argparse.Namespace) -> dict:
    with run.alone("a prune"):
        return run.forget(settings.load(), _report, dry=asked.dry_run)


def _restore(asked: argparse.Namespace) -> dict:
    configured = settings.load()
    if asked.from_host:
        configured = settings.Settings(**{**vars(configured), "host": asked.from_host})
    restic = Restic(configured)
    snapshot = restore.chosen(restic, asked.snapshot)
    if asked.dry_run:
        return restore.plan(snapshot, restore.described(restic, snapshot), _filter(asked), asked.as_name)
    return restore.restore(restic, snapshot, _filter(asked), asked.as_name, _report)


def _filter(asked: argparse.Namespace) -> Filter:
    return Filter(tuple(asked.pod), asked.selector, tuple(asked.volume), tuple(asked.exclude_pod),
                  tuple(asked.exclude_volume))  # fmt: skip


def _report(text: str) -> None:
    with contextlib.suppress(OSError):  # nobody may listen any more, which is no reason to stop half-way
        print(text, file=sys.stderr, flush=True)
