"""casemate-node bench: measures pods on this node, beside its own, and prints one JSON object; progress on stderr.

bench handlers                                             which handlers there are
bench start|density|io|net --handler H [--cold] [--runs N]  one benchmark with pods of one handler
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys

from appliance.node.pods.cri import CriError

from . import density, io, net, start
from .pods import ENDING, BenchError, node


def main(argv: list[str]) -> int:
    """Run one benchmark; 0 done, 1 failed (the reason on stderr), 2 asked wrongly."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=("handlers", "start", "density", "io", "net"))
    parser.add_argument("--handler", default="microvm", help='runtime handler; for io also "host"')
    parser.add_argument("--cold", action="store_true", help="guests boot cold, not from their template")
    parser.add_argument("--runs", type=int, default=5, help="how often; for density, how many pods at most")
    asked = parser.parse_args(argv)
    for number in ENDING:
        signal.signal(number, lambda *_: sys.exit(130))
    try:
        with node() as there:
            if asked.what == "handlers":
                result = {"handlers": there.handlers(), "machine": _machine()}
            elif asked.what == "start":
                result = start.run(there, asked.handler, asked.cold, asked.runs)
            else:
                result = {"density": density, "io": io, "net": net}[asked.what].run(there, asked.handler, asked.runs)
    except (BenchError, CriError, OSError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    print(json.dumps(result))
    return 0


def _machine() -> dict:
    memory_mib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20
    return {"cpus": os.cpu_count(), "memory_mib": memory_mib, "kernel": platform.release()}
