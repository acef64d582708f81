"""casemate-microvm: runc's command line for the engine, and a few verbs for whoever looks after the host.

casemate-microvm prepare [--check] [--refresh]   image, probe and template, as far as they are not current;
                         [--verify]              --verify reads templates first, and makes damaged ones anew
casemate-microvm image [--refresh]               make the guest image
casemate-microvm probe                           find out which accelerator works
casemate-microvm template                        make the templates
casemate-microvm status                          what is there, as JSON
casemate-microvm sandbox-info ID                 what guest a pod's sandbox has, and is it outdated, as JSON
casemate-microvm stats ID                        what a pod's guest and its containers use, as JSON
"""

from __future__ import annotations

import json
import sys

ADMIN = ("prepare", "image", "probe", "template", "status", "sandbox-info", "stats")


def main(argv: list[str]) -> int:
    """Run the command line `argv` (without the program's name); return the exit code."""
    verb = argv[0] if argv else "--help"
    if verb == "_stand-in":
        from .standin import main as stand_in

        return stand_in(argv[1], terminal="--terminal" in argv[2:])
    if verb == "_supervise":
        from .supervisor import main as supervise

        return supervise()
    if verb in ADMIN:
        return _admin(verb, argv[1:])
    if verb in ("-h", "--help"):
        print(__doc__)
        return 0
    from .runtime import main as runtime

    return runtime(argv)


def _admin(verb: str, arguments: list[str]) -> int:
    from . import prepare
    from .sandboxes import Sandbox, of_container
    from .settings import RuntimeFailure

    known = {"prepare": {"--check", "--refresh", "--verify"}, "image": {"--refresh"}}.get(verb, set())
    names = [a for a in arguments if not a.startswith("-")]
    if unknown := [a for a in arguments if a.startswith("-") and a not in known]:
        print(f"casemate-microvm {verb}: unknown option {unknown[0]}", file=sys.stderr)
        return 2
    if len(names) != (1 if verb in ("sandbox-info", "stats") else 0):
        print(__doc__, file=sys.stderr)
        return 2
    try:
        if names:
            sandbox = of_container(names[0]) or Sandbox(names[0])
            asked = verb == "sandbox-info"
            result = sandbox.info() | {"outdated": sandbox.is_outdated()} if asked else sandbox.stats()
        elif verb == "status":
            result = prepare.status()
        else:
            result = prepare.prepare(
                [verb] if verb != "prepare" else ["image", "probe", "template"],
                check="--check" in arguments,
                refresh="--refresh" in arguments,
                verify="--verify" in arguments,
                report=lambda text: print(text, file=sys.stderr, flush=True),
            )
    except (RuntimeFailure, OSError) as error:
        print(f"casemate-microvm {verb}: {error}", file=sys.stderr)
        return 1
    print(json.dumps(result, indent=1))
    return 0
