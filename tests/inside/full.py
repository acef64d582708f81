"""Runs on an appliance: no space left, two makers at once, hostile names; prints JSON."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from cri_pods import Pod, execute, refusal, sh, status, wait
from traces import added, settled, traces

PROGRAM = "/usr/lib/casemate/bin/casemate-microvm"
STATE = Path("/var/lib/casemate/microvm")


def run_is_full():
    """Fill /run, made small for that, beneath a pod: the next is refused, the first goes on, and then all is well."""
    before = traces()
    pod = Pod("first")
    container = pod.container(*sh("while :; do sleep 1; done"))
    size = os.statvfs("/run").f_blocks * os.statvfs("/run").f_frsize
    subprocess.run(["mount", "-o", "remount,size=8m", "/run"], check=True)
    filler = Path("/run/casemate/filler")
    with filler.open("wb") as file:
        try:
            while True:
                file.write(bytes(1 << 20))
                file.flush()
        except OSError:
            pass
    try:
        refused = refusal(lambda: Pod("second"))
        state = status(container).state
    finally:
        filler.unlink()
        subprocess.run(["mount", "-o", f"remount,size={size}", "/run"], check=True)
    alive = execute(container, *sh("echo alive"))[:2]
    pod.remove()
    third = Pod("third")
    code = wait(third.container(*sh("exit 5")))
    third.remove()
    return {
        "refused": refused,
        "state": state,
        "alive": alive,
        "afterwards": code,
        "left": added(before, settled(before)),
    }


def state_is_full():
    """Let `prepare` make everything anew on a file system that is too small for it, then for a template."""
    seen = {}
    for what, size in (("image", "20m"), ("template", "200m")):
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "small", str(STATE)], check=True)
        try:
            done = subprocess.run([PROGRAM, "prepare"], capture_output=True, text=True)
            left = sorted(str(p.relative_to(STATE)) for p in STATE.rglob("*") if ".new-" in p.name)
            seen[what] = {"code": done.returncode, "error": done.stderr.strip().splitlines()[-1:], "left": left}
        finally:
            subprocess.run(["umount", str(STATE)], check=True)
    return seen


def two_prepare():
    """Two makers at once of one missing template: one makes it, the other finds it."""
    for record in (STATE / "templates").glob("*/template.json"):
        record.unlink()
    makers = [subprocess.Popen([PROGRAM, "prepare"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
              for _ in range(2)]  # fmt: skip
    told = [maker.communicate() for maker in makers]
    return {"codes": [maker.returncode for maker in makers],
            "made": sorted(json.loads(out)["changed"] for out, _ in told),
            "left": [p.name for p in (STATE / "templates").iterdir() if p.name.startswith(".")]}  # fmt: skip


def names():
    """What a hostile caller of the runtime writes where an id belongs."""
    bundle = Path("/tmp/casemate-test/bundle")
    bundle.mkdir()
    seen = {}
    for name in ("../x", "a/b", "..", "a b", "a\nb"):
        told = []
        for kind, sandbox in (("container", "s"), ("sandbox", name)):
            annotations = {"io.kubernetes.cri.container-type": kind, "io.kubernetes.cri.sandbox-id": sandbox}
            (bundle / "config.json").write_text(json.dumps({"annotations": annotations}))
            done = subprocess.run([PROGRAM, "create", "--bundle", str(bundle), name], capture_output=True, text=True)
            told.append([done.returncode, done.stderr.strip()])
        done = subprocess.run([PROGRAM, "delete", "--force", name], capture_output=True, text=True)
        seen[name] = [*told, [done.returncode, done.stderr.strip()]]
    return seen


def main(*what):
    shutil.rmtree("/tmp/casemate-test", ignore_errors=True)
    os.makedirs("/tmp/casemate-test")
    Pod("warm").remove()
    actions = {"run": run_is_full, "state": state_is_full, "prepare": two_prepare, "names": names}
    print(json.dumps({name: actions[name]() for name in what or actions}))
    shutil.rmtree("/tmp/casemate-test")


if __name__ == "__main__":
    main(*sys.argv[1:])
