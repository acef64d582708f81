"""What a volume does in a pod, against the same directory on the host.

The same program runs on both sides: the host's own Python, which a pod sees below /usr, read-only.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from .pods import Node, say

PROGRAM = "io_load.py"
PYTHON = {"/usr": Path("/usr"), "/lib": Path("/usr/lib"), "/lib64": Path("/usr/lib64")}


def run(node: Node, handler: str, runs: int) -> dict:
    """Return {"runs": [{"write_mib_s", ... as io_load.py says}]}; handler "host" is the host itself."""
    volume = node.directory / "volume"
    volume.mkdir(exist_ok=True)
    (volume / PROGRAM).write_bytes(source(PROGRAM))
    results = []
    for number in range(1, runs + 1):
        if handler == "host":
            argv = ["/usr/bin/python3", "-IS", str(volume / PROGRAM), str(volume)]
            text = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
        else:
            pod = node.pod(handler)
            pod.start("/usr/bin/python3", "-IS", f"/bench/{PROGRAM}", "/bench", mounts={**PYTHON, "/bench": volume})
            text = pod.output(lambda out: out.endswith("}\n"))
            pod.remove()
        results.append(json.loads(text))
        say(f"{handler}: {results[-1]['write_mib_s']} MiB/s written ({number} of {runs})")
    return {"runs": results}


def source(name: str) -> bytes:
    """Return a program beside this file, which may be in an archive."""
    import importlib.resources

    return importlib.resources.files(__package__).joinpath(name).read_bytes()
