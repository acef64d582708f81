"""`casemate-release VERB`: what a release is made of, and its change as a transaction.

One JSON object each on stdout, what it is doing on stderr; exit code 1 and a line of words where it fails.
"""

from __future__ import annotations

import argparse
import base64
import json
import sys
import zlib

from appliance.node.microvm.settings import Settings
from appliance.node.pods.cri_model import CriError
from appliance.node.pods.notify import notify
from appliance.node.release import (
    back,
    begin,
    guard,
    impact,
    install,
    locked,
    packages,
    path,
    resolve,
    roll,
    transaction,
    watch,
)

FAILURES = (
    resolve.ResolveError, locked.LockError, packages.PackageError, transaction.TransactionError, begin.Refused,
    watch.GateError,
)  # fmt: skip


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="casemate-release", description=__doc__)
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    one = verbs.add_parser("resolve", help="what a deploy installs on this host, as exactly as apt knows it")
    one.add_argument("--request", required=True, metavar="JSON",
                     help='{"packages", "kernels", "artifacts", "images"}; the last two are passed on')  # fmt: skip
    one = verbs.add_parser("begin", help="see whether the lock may be installed, keep what is there, watch")
    one.add_argument("--run", default="", metavar="NAME", help="the run that asks, as the outcome is to name it")
    _with_lock(one)
    one = verbs.add_parser("gate", help="wait until the host is as well as before, then commit the transaction")
    one.add_argument("--grace", type=float, default=30, metavar="SECONDS", help="how long it must stay so")
    one.add_argument("--rolled", default="[]", metavar="JSON", help="the pods that were restarted on purpose")
    verbs.add_parser("roll", help="restart the microVM pods that are ready, one after the other")
    one = verbs.add_parser("rollback", help="bring everything back to what it was before the transaction")
    one.add_argument("--reason", default="asked for", metavar="WORDS")
    one.add_argument("--run", default="", metavar="NAME", help="only what this run began")
    one = verbs.add_parser("back", help="go back to a release that is kept here, as a transaction of its own")
    one.add_argument("--to", metavar="ID", help="which; by default the one that was left last")
    one.add_argument("--grace", type=float, default=30, metavar="SECONDS", help="how long the host must stay well")
    verbs.add_parser("kept", help="the releases that this host can go back to")
    verbs.add_parser("guard", help="what casemate-guard.service runs")
    one = verbs.add_parser("look", help="how this host differs from a lock; changes nothing")
    one.add_argument("--programs", metavar="ID", help="the release of the node programs that is to come")
    one.add_argument("--restart-pods", action="store_true", help="microVMs are to be restarted")
    _with_lock(one)
    one = verbs.add_parser("install", help="install what a lock says")
    one.add_argument("--within", default="", metavar="ID", help="only while the change to this lock goes on")
    _with_lock(one)
    return top


def _with_lock(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--asked", required=True, metavar="JSON", help="the packages that the roles ask for, a list")
    verb.add_argument(
        "--lock",
        required=True,
        metavar="PACKED",
        help="its part for this platform (appliance/lock.py)",
    )


def main(argv: list[str] | None = None) -> int:
    """Run one verb."""
    asked = parser().parse_args(argv)
    do = {"resolve": _resolve, "look": _look, "install": _install, "begin": _begin, "gate": _gate,
          "rollback": _rollback, "back": _back, "kept": _kept, "roll": _roll, "guard": _guard}[asked.verb]  # fmt: skip
    try:
        print(json.dumps(do(asked)))
    except FAILURES as error:
        print(f"casemate-release: {error}", file=sys.stderr)
        return 1
    return 0


def _resolve(asked: argparse.Namespace) -> dict:
    request = json.loads(asked.request)
    distribution = resolve.platform().partition("-")[0]
    kernel = request["kernels"].get("") or request["kernels"].get(distribution)
    if kernel is None:
        raise resolve.ResolveError(f"no kernel package is known for {distribution}: set microvm_kernel_package")
    found = resolve.resolve(request["packages"], list(Settings().guest_packages), kernel)
    return found | {key: request[key] for key in ("artifacts", "images")}


def _look(asked: argparse.Namespace) -> dict:
    """`locked.look`'s answer, "lacking" (packages whose files are needed), "incomplete", "impact" (see impact.py; empty
    on a host that has nothing yet, where nothing is disturbed), "words" for people, and "lock", what was deployed."""
    content = _content(asked)
    release = locked.read(content)
    names = json.loads(asked.asked)
    found = locked.look(names, release.versions(names))
    here = transaction.released()
    programs = (here.get("node", ""), asked.programs or "")
    meant = impact.of(release, found, programs, _pods_that_run, asked.restart_pods) if here else []
    way = path.problem(here.get("release", content["release"]), content["release"], content["releases"])
    words = impact.words(meant) if meant else [f"{name} {version}" for name, version in found["install"].items()]
    words += [f"{name} {old} -> {new}" for name, (old, new) in found["change"].items() if not meant]
    words += [f"would be refused: {way}"] if way else []
    lacking = [one.name for one in install.wanted(release, found) if not (release.debs / one.file).exists()]
    return found | {
        "words": words,
        "lacking": lacking,
        "incomplete": bool(found["install"] or found["change"] or way or lacking or not release.is_kept),
        "impact": meant,
        "lock": here.get("lock", ""),
    }


def _pods_that_run() -> list[str]:
    try:
        return roll.candidates()
    except CriError:  # without its engine a host has none that could be named
        return []


def _install(asked: argparse.Namespace) -> dict:
    """{"changed", and what `locked.look` said before}."""
    transaction.require(asked.within)
    content = _content(asked)
    release, names = locked.read(content), json.loads(asked.asked)
    install.take(release)
    install.fetch(install.wanted(release, locked.look(names, release.versions(names))), release.debs)
    install.link_kept(release, names)
    locked.keep(release, content, names)
    done = install.install(release, names)
    return done | {"changed": bool(done["install"] or done["change"])}


def _begin(asked: argparse.Namespace) -> dict:
    content = _content(asked)
    return begin.begin(locked.read(content), content, json.loads(asked.asked), _report, asked.run)


def _gate(asked: argparse.Namespace) -> dict:
    """{"committed": the lock's id}; the transaction goes on where the host is not well."""
    found = _transaction()
    watch.follow_clock(found.since, found.monotonic)
    watch.gate(found.pods, found.failing, asked.grace, _report, json.loads(asked.rolled))
    transaction.commit(found)
    guard.disarm()
    return {"committed": found.to}


def _rollback(asked: argparse.Namespace) -> dict:
    """{"was_under_way", "last": transaction.OUTCOME}, once the guard has done it. Another run is left alone."""
    found = transaction.current()
    if under_way := found is not None and asked.run in ("", found.run):
        guard.ask(asked.reason)
    return {"was_under_way": under_way, "last": transaction.outcome()}


def _back(asked: argparse.Namespace) -> dict:
    """{"from", "to"}; nobody else's run is needed from here on: we keep the lease ourselves."""
    kept = transaction.kept_releases()
    to = asked.to or next(iter(kept), "")
    here = transaction.released().get("lock", "")
    if to == (here or transaction.UNLOCKED):
        raise transaction.TransactionError(f"release {to} is what is here")
    back.go(to, asked.grace, _report)
    return {"from": here, "to": to}


def _roll(asked: argparse.Namespace) -> dict:
    """{"rolled": [NAMESPACE/NAME]}."""
    return {"rolled": roll.microvms(_report)}


def _kept(asked: argparse.Namespace) -> dict:
    """{"current", "kept": [{"id", "left"}]}, the one that was left last first."""
    found = [{"id": name, "left": one["left"]} for name, one in transaction.kept_releases().items()]
    return {"current": transaction.released().get("lock", ""), "kept": found}


def _guard(asked: argparse.Namespace) -> dict:
    guard.guard(lambda: notify("READY=1"), _report)
    return {}


def _transaction() -> transaction.Transaction:
    found = transaction.current()
    if found is None:
        raise transaction.TransactionError("no change of release is under way here")
    return found


def _content(asked: argparse.Namespace) -> dict:
    return json.loads(zlib.decompress(base64.b64decode(asked.lock)))


def _report(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
