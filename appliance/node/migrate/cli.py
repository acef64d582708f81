"""`casemate-migrate`: one end of a migration of pods; `appliance migrate` on the admin's machine leads both.

Without --id an end only answers questions. With it, it is run by systemd, which undoes what was begun when it ends:

    systemd-run --pipe --wait ... -p ExecStopPost="casemate-migrate undo" casemate-migrate source --id ID
"""

from __future__ import annotations

import argparse
import contextlib
import sys

from appliance.node.backup import run
from appliance.node.backup.selection import SelectionError
from appliance.node.backup.settings import BackupError
from appliance.node.pods.cri_model import CriError
from appliance.node.pods.documents import ManifestError
from appliance.node.pods.units import UnitError

from . import records, source, target
from .session import MigrationError, Session, serve

_FORESEEN = (BackupError, CriError, ManifestError, MigrationError, OSError, SelectionError, UnitError)
_ENDS = {"source": source.Source, "target": target.Target}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="casemate-migrate", description=__doc__)
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name in _ENDS:
        one = verbs.add_parser(name, help=f"be the {name}, as standard input says")
        one.add_argument("--id", default="", help="the migration's; without it nothing is changed")
    one = verbs.add_parser("undo", help="bring this host out of a migration that was cut off")
    one.add_argument("--unless-busy", action="store_true", help="not while a migration is under way")
    return top


def main(argv: list[str] | None = None) -> int:
    """Run one verb; the exit code: 0 done, 1 failed, 3 the line broke."""
    asked = parser().parse_args(sys.argv[1:] if argv is None else argv)
    try:
        return _undo(wait=not asked.unless_busy) if asked.verb == "undo" else _session(_ENDS[asked.verb], asked.id)
    except _FORESEEN as error:
        print(f"casemate-migrate: {error}", file=sys.stderr)
        return 1


def _session(end: type, identity: str) -> int:
    session = Session()
    with contextlib.ExitStack() as held:
        if identity:
            try:
                if not held.enter_context(records.held(wait=False)):
                    raise MigrationError("another migration is under way on this host; wait for it")
                held.enter_context(run.alone("a migration"))
                source.undo()
                target.undo()
            except _FORESEEN as error:
                session.tell(error=str(error))
                return 1
        return serve(session, end(session, identity).verbs(), _FORESEEN)


def _undo(wait: bool) -> int:
    with records.held(wait) as ours:
        if ours:
            source.undo()
            target.undo()
    return 0
