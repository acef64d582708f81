"""Runs on an appliance: five pods that serve, asked ten times a second while something else is done; prints JSON.

usage: served up|watch|down

"up" declares the pods (three of runc, two microVMs; test image nginx) and waits for them; "watch" asks them until
/tmp/casemate-test/over is there: {"asked": [count each], "failed": [what went wrong], "same": the pods' processes and
their start times are as they were}; "down" takes them back.
"""

import json
import sys
import time
from pathlib import Path

import undisturbed
from declared import drop, manifest, pods, ready, take_back
from undisturbed import SERVE, Asker

HANDLERS = {18091: "runc", 18092: "runc", 18093: "runc", 18094: "microvm", 18095: "microvm"}
OVER = Path("/tmp/casemate-test/over")
NAMES = {port: f"served-{port}" for port in HANDLERS}


def up():
    for port, handler in HANDLERS.items():
        probe = {"tcpSocket": {"port": 8000}, "periodSeconds": 2, "timeoutSeconds": 30}
        web = SERVE | {"ports": [{"containerPort": 8000, "hostPort": port}], "readinessProbe": probe}
        drop(manifest(NAMES[port], containers=[("web", web)], runtimeClassName=handler))
    assert ready(*NAMES.values()), pods()
    return {}


def look():
    undisturbed.name = lambda port: NAMES[port]
    return {NAMES[port]: undisturbed.look(port) for port in HANDLERS}


def watch():
    before = look()
    askers = [Asker(port) for port in HANDLERS]
    print("watching", file=sys.stderr, flush=True)
    while not OVER.exists():
        time.sleep(0.2)
    for asker in askers:
        asker.end()
    OVER.unlink()
    failed = [problem for asker in askers for problem in asker.failed]
    return {"asked": [asker.asked for asker in askers], "failed": failed, "same": look() == before}


def down():
    take_back(*NAMES.values())
    return {}


if __name__ == "__main__":
    print(json.dumps({"up": up, "watch": watch, "down": down}[sys.argv[1]]()))
