"""Runs on an appliance: pods declared in its manifest directory, for the scripts beside this file."""

import json
import subprocess
import time
from pathlib import Path

from cri_pods import IMAGE, cri, sh

from appliance.node.pods.translate import CONTAINER_LABEL, managed_labels

MANIFESTS = Path("/etc/casemate/pods")
PROGRAM = "/usr/lib/casemate/bin/casemate-pod"
LIMIT = 300  # s, for whatever takes a second or two on a quiet machine
SLEEP = sh("trap 'exit 0' TERM; while :; do sleep 1 & wait; done")


def manifest(name, command=SLEEP, containers=None, **spec):
    """A pod of the demo's image; `containers` are (name, fields) where it is not the one that runs `command`."""
    containers = containers or [("main", {"command": command})]
    return {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {
            "runtimeClassName": "runc", "terminationGracePeriodSeconds": 2,
            "containers": [{"name": n, "image": IMAGE["image"], "imagePullPolicy": "Never", **fields}
                           for n, fields in containers],
        } | spec,
    }  # fmt: skip


def drop(document):
    """Put a manifest into the directory as careful programs do: written aside, then renamed."""
    name = document["metadata"]["name"]
    aside = MANIFESTS / f".{name}.new"
    aside.write_text(json.dumps(document))
    aside.rename(MANIFESTS / f"{name}.json")


def take_back(*names):
    """Remove manifests, and wait until their pods are gone."""
    for name in names:
        (MANIFESTS / f"{name}.json").unlink(missing_ok=True)
    subprocess.run([PROGRAM, "sync"], check=True, capture_output=True)


def pods():
    """What `casemate-pod list` says, by name."""
    return {row["name"]: row for row in json.loads(subprocess.check_output([PROGRAM, "list", "-o", "json"]))}


def until(look, seconds=LIMIT, pause=0.2):
    """Call `look` until it returns something true, and return that; or the last it returned, after `seconds`."""
    end = time.monotonic() + seconds
    while not (found := look()) and time.monotonic() < end:
        time.sleep(pause)
    return found


def ready(*names, seconds=LIMIT):
    """Wait until these pods are ready; whether they are."""
    return until(lambda: all((there := pods()).get(name, {}).get("ready") for name in names) and bool(there), seconds)


def containers(pod):
    """The engine's containers of a pod, by name: the last attempt's status."""
    found = {}
    for sandbox in cri.sandboxes(managed_labels(pod)):
        for one in sorted(cri.containers(sandbox.id), key=lambda c: c.metadata.attempt):
            found.setdefault(one.labels[CONTAINER_LABEL], []).append(one)
    return {name: cri.call("ContainerStatus", container_id=each[-1].id).status for name, each in found.items()}


def show(pod, *properties):
    """Properties of a pod's unit."""
    argv = ["systemctl", "show", f"casemate-pod@{pod}", *(f"-p{name}" for name in properties)]
    return dict(line.split("=", 1) for line in subprocess.check_output(argv, text=True).splitlines())


def journal(pod):
    argv = ["journalctl", "-u", f"casemate-pod@{pod}", "-o", "json", "--no-pager"]
    return [json.loads(line) for line in subprocess.check_output(argv, text=True).splitlines()]
