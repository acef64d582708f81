"""`casemate-release resolve|look|install`: one JSON object each; exit code 1 and a line of words where it fails."""

from __future__ import annotations

import argparse
import json
import sys

from appliance.node.microvm.settings import Settings
from appliance.node.release import install, locked, resolve


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="casemate-release", description=__doc__)
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    one = verbs.add_parser("resolve", help="what a deploy installs on this host, as exactly as apt knows it")
    one.add_argument("--request", required=True, metavar="JSON",
                     help='{"packages", "kernels", "artifacts", "images"}; the last two are passed on')  # fmt: skip
    one = verbs.add_parser("look", help="how this host differs from a lock; changes nothing")
    one.add_argument("--asked", required=True, metavar="JSON", help="the packages that the roles ask for, a list")
    one.add_argument("--lock", metavar="JSON", help="the lock's part for this platform; else it is read from stdin")
    one = verbs.add_parser("install", help="install what the lock on stdin says")
    one.add_argument(
        "--asked", required=True, metavar="JSON", help="the packages that the host's roles ask for, a list"
    )
    return top


def main(argv: list[str] | None = None) -> int:
    """Run one verb."""
    asked = parser().parse_args(argv)
    do = {"resolve": _resolve, "look": _look, "install": _install}[asked.verb]
    try:
        print(json.dumps(do(asked)))
    except (resolve.ResolveError, locked.LockError) as error:
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
    """`locked.look`'s answer, "lacking" (packages whose files are needed), "incomplete" and "words" for people."""
    release = locked.read(json.loads(asked.lock) if asked.lock else json.load(sys.stdin))
    names = json.loads(asked.asked)
    found = locked.look(names, release.versions(names))
    words = []
    if found["install"]:
        words.append("would install " + ", ".join(f"{name} {version}" for name, version in found["install"].items()))
    words += [f"would change {name} from {old} to {new}" for name, (old, new) in found["change"].items()]
    lacking = [one.name for one in install.wanted(release, names) if not (release.debs / one.file).exists()]
    return found | {"words": words, "lacking": lacking, "incomplete": bool(words or lacking or not release.is_kept)}


def _install(asked: argparse.Namespace) -> dict:
    """{"changed", and what `locked.look` said before}."""
    content = json.load(sys.stdin)
    release, names = locked.read(content), json.loads(asked.asked)
    install.take(release)
    install.fetch(install.wanted(release, names), release.debs)
    locked.keep(release, content)
    done = install.install(release, names)
    return done | {"changed": bool(done["install"] or done["change"])}
