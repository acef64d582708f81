"""`casemate-edge`: fetch EdgeCore, and bring it to what role edge declares."""

import argparse
import json
import sys

from appliance.node.pods.cri_model import CriError

from . import apply, artifact, settings
from .settings import Artifact, EdgeError


def main(arguments: list[str] | None = None) -> int:
    """Run one command, which prints {"changed": bool, "done": [texts]}; the exit code: 0 done, 1 failed, 2 usage."""
    parser = argparse.ArgumentParser(prog="casemate-edge", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    fetch = commands.add_parser("fetch", help="download, verify and unpack a release beside the one in use")
    fetch.add_argument("--artifact", required=True, metavar="JSON", help="url, checksum, member and size")
    fetch.set_defaults(function=_fetch)
    apply_ = commands.add_parser("apply", help=f"bring EdgeCore to what {settings.DECLARED} declares")
    apply_.add_argument("--check", action="store_true", help="only say what would be done")
    apply_.set_defaults(function=_apply)
    options = parser.parse_args(arguments)
    try:
        done = options.function(options)
    except (EdgeError, CriError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps({"changed": bool(done), "done": done}))
    return 0


def _fetch(options: argparse.Namespace) -> list[str]:
    wanted = Artifact(**json.loads(options.artifact))
    return [f"release {wanted.id}"] if artifact.fetch(wanted) else []


def _apply(options: argparse.Namespace) -> list[str]:
    declared = settings.load()
    if declared is None:
        raise EdgeError(f"{settings.DECLARED} is missing: `appliance deploy` with edge_provider: kubeedge writes it")
    return apply.apply(declared, check=options.check)
