"""`casemate-node.pyz reset PART`: remove one part of Casemate from this host; `look` says whether there is anything.

Prints {"removed": [...], "kept": [...]}, for a person to read; `look` prints {"present": bool}.
"""

import argparse
import importlib
import json
import sys

from appliance.node.microvm.settings import RuntimeFailure
from appliance.node.reset import records
from appliance.node.reset.remover import Remover, ResetError

PARTS = ("backup", "monitoring", "objects", "edge", "pods", "microvm", "engine", "storage", "base")


def main(argv: list[str] | None = None) -> int:
    """Remove one part; the exit code: 0 done, 1 failed, 2 bad usage."""
    parser = argparse.ArgumentParser(prog="casemate-node.pyz reset", description=__doc__)
    parser.add_argument("part", choices=("look", *PARTS))
    parser.add_argument("--check", action="store_true", help="only say what would be removed")
    parser.add_argument("--options", default="{}", metavar="JSON", help="an object, for the part")
    asked = parser.parse_args(argv)
    if asked.part == "look":
        print(json.dumps({"present": records.anything()}))
        return 0
    remover = Remover(asked.check)
    try:
        importlib.import_module(f"appliance.node.reset.{asked.part}").reset(remover, json.loads(asked.options))
    except (ResetError, RuntimeFailure, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps({"removed": remover.removed, "kept": remover.kept}))
    return 0
