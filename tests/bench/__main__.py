"""`python -m tests.bench [NAME] [--runs N]`: the benchmarks behind docs/performance.md, as one JSON object each."""

import argparse
import json
import os
import platform

from tests.bench import backup, deploy, pods, upgrade

BENCHES = {
    "backup": backup.run,
    "deploy": deploy.run,
    "start": pods.start,
    "state": pods.state,
    "memory": pods.memory,
    "upgrade": upgrade.run,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("name", nargs="?", choices=sorted(BENCHES), default="deploy")
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    machine = {"cpus": os.cpu_count(), "kernel": platform.release(), "python": platform.python_version()}
    print(
        json.dumps({"bench": arguments.name, "machine": machine, **BENCHES[arguments.name](arguments.runs)}, indent=2)
    )


if __name__ == "__main__":
    main()
