"""`casemate-health preflight|doctor|status|services`: one JSON object each; exit code 0 whenever they could look."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from appliance.node.health import checks, facts, registry, services, settings, status  # noqa: F401 - checks registers itself
from appliance.node.health.host import Host

CONFIG = Path("/etc/casemate/health.json")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="casemate-health", description=__doc__)
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    preflight = verbs.add_parser("preflight", help="may this host be deployed to; changes nothing")
    preflight.add_argument("--params", default="{}", metavar="JSON", help="settings, see settings.py")
    wanted = verbs.add_parser("services", help="which services must be started, restarted or reloaded")
    wanted.add_argument("--wanted", required=True, metavar="JSON", help="a list of objects, see services.py")
    wanted.add_argument("--pending", default="[]", metavar="JSON", help="a list of files that are about to change")
    for verb, help in (("doctor", "every check, passed or not"), ("status", "versions, health and pods")):
        one = verbs.add_parser(verb, help=help)
        one.add_argument("--config", type=Path, default=CONFIG, metavar="FILE", help=f"settings (default {CONFIG})")
    return top


def main(argv: list[str] | None = None) -> int:
    """Run one verb; 0 if it could look, 2 if it was asked wrongly."""
    asked = parser().parse_args(argv)
    host = Host()
    try:
        if asked.verb == "preflight":
            wanted = settings.from_json(asked.params, "--params")
            answer = {"facts": facts.gather(host, wanted), "checks": registry.run("preflight", host, wanted)}
        elif asked.verb == "services":
            answer = {"services": services.needed(host, json.loads(asked.wanted), json.loads(asked.pending))}
        elif asked.verb == "doctor":
            answer = {"checks": registry.run("doctor", host, settings.from_file(asked.config))}
        else:
            answer = status.gather(host, settings.from_file(asked.config))
    except settings.SettingsError as error:
        print(f"casemate-health: {error}", file=sys.stderr)
        return 2
    json.dump(answer, sys.stdout)
    print()
    return 0
