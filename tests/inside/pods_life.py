"""Runs on an appliance: the life of declared pods, from their manifest's arrival to their end; prints JSON.

usage: pods_life arrivals|ends|hostile
"""

import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from datetime import datetime
from pathlib import Path

from crashes import kill
from cri_pods import cri, sh
from declared import (
    LIMIT,
    MANIFESTS,
    PROGRAM,
    SLEEP,
    containers,
    drop,
    journal,
    manifest,
    pods,
    ready,
    show,
    take_back,
    until,
)  # fmt: skip

from appliance.node.pods.cri_model import sandbox_ready
from appliance.node.pods.translate import managed_labels

RUN = Path("/run/casemate")
LOGS = Path("/var/log/pods")


def sandboxes(pod):
    return cri.sandboxes(managed_labels(pod))


def taken_up(*names):
    """Wait until the pods have runners; how long that took, in seconds, and whether they have."""
    begin = time.monotonic()
    found = until(lambda: all((RUN / f"pods/{name}.json").exists() for name in names), pause=0.05)
    return [round(time.monotonic() - begin, 1), bool(found)]


def arrivals():
    """Manifests that arrive by each of the ways in which files do, alone, many at once, and while a sync runs."""
    seen = {"picked_up": {}}
    took = seen["picked_up"]
    drop(manifest("one"))
    took["renamed into"] = taken_up("one")
    (MANIFESTS / "two.json").write_text(json.dumps(manifest("two")))
    took["written in place"] = taken_up("two")
    crowd = [f"crowd-{number}" for number in range(8)]
    for name in crowd:
        drop(manifest(name))
    took["eight at once"] = taken_up(*crowd)
    seen["ready"] = ready("one", "two", *crowd)

    # a sync waits for a pod that takes its whole grace period
    stubborn = manifest("stubborn", sh("trap '' TERM; while :; do sleep 1; done"), terminationGracePeriodSeconds=12)
    drop(stubborn)
    ready("stubborn")
    (MANIFESTS / "stubborn.json").unlink()
    until(lambda: subprocess.run(["systemctl", "is-active", "-q", "casemate-pods"]).returncode != 3, 20, 0.02)
    time.sleep(2)
    drop(manifest("during"))
    took["while a sync waits"] = taken_up("during")
    seen["sync_still_ran"] = subprocess.run(["systemctl", "is-active", "casemate-pods"], capture_output=True,
                                            text=True).stdout.strip()  # fmt: skip
    ready("during")

    # at the very moment when a sync ends and systemd does not watch yet: many times, as each is a gamble
    moments = []
    for number in range(3):
        name = f"gap-{number}"
        (MANIFESTS / "harmless.txt").write_text(str(number))
        until(lambda: show_service() in ("activating", "active"), 10, 0.005)
        until(lambda: show_service() not in ("activating", "active"), 30, 0.001)
        drop(manifest(name))
        moments.append(taken_up(name))
    (MANIFESTS / "harmless.txt").unlink()
    took["as a sync ends"] = [max(m[0] for m in moments), all(m[1] for m in moments)]
    gaps = [f"gap-{number}" for number in range(3)]
    seen["gaps_ready"] = ready(*gaps)

    changed = {one.id: one for one in containers("one").values()}
    document = manifest("one", sh("echo second; exec sleep 100000"))
    drop(document)
    seen["replaced"] = bool(until(lambda: [c for c in containers("one").values() if c.id not in changed]))
    seen["replaced_ready"] = ready("one")
    seen["replaced_log"] = subprocess.check_output([PROGRAM, "logs", "one"], text=True)
    seen["replaced_restarts"] = pods()["one"]["restarts"]
    before = {name: show(name, "MainPID") for name in crowd}
    first = subprocess.Popen([PROGRAM, "sync"])
    second = subprocess.run([PROGRAM, "sync", "-o", "json"], capture_output=True, text=True)
    seen["two_syncs"] = [first.wait(), second.returncode, json.loads(second.stdout)["started"]]
    seen["untouched"] = before == {name: show(name, "MainPID") for name in crowd}
    names = ["one", "two", "during", *crowd, *gaps]
    take_back(*names)
    there = pods()
    seen["left"] = [name for name in names if name in there]
    seen["left_files"] = [str(p) for p in Path("/var/lib/casemate/pods").glob("*") if p.name in names]
    seen["left_logs"] = [str(p) for p in LOGS.glob("*") if p.name.split("_")[1] in names]
    return seen


def show_service():
    argv = ["systemctl", "show", "-p", "ActiveState", "--value", "casemate-pods.service"]
    return subprocess.check_output(argv, text=True).strip()


CLOCK = "read up _ < /proc/uptime; echo {} $up >> /seen/log;"


def ends():
    """Pods that end: by themselves, in time, too late, and by a probe; what is left of them then."""
    seen = {}
    looping = f"looping-{time.time_ns() % 10**6}"  # of no other's journal
    drop(manifest(looping, sh("echo again; exit 3")))
    watcher = threading.Thread(target=lambda: seen.update(looping=crashes(looping)))
    watcher.start()
    shared = Path("/var/lib/casemate-test-ends")
    shared.mkdir()
    shared.chmod(0o777)
    mount = {"volumes": [{"name": "seen", "hostPath": {"path": str(shared)}}]}
    stubborn = {"command": sh(f"trap '{CLOCK.format('TERM')}' TERM; {CLOCK.format('up')} while :; do "
                              f"{CLOCK.format('alive')} sleep 0.2; done"),
                "volumeMounts": [{"name": "seen", "mountPath": "/seen"}]}  # fmt: skip
    drop(manifest("stubborn", containers=[("main", stubborn)], terminationGracePeriodSeconds=6, **mount))
    drop(manifest("job", sh("echo all of it; exit 0"), restartPolicy="Never"))
    drop(manifest("bad-job", sh("echo its last words; exit 3"), restartPolicy="Never"))
    drop(manifest("vm-job", sh("echo from a guest; exit 0"), restartPolicy="OnFailure", runtimeClassName="microvm"))
    hung = {
        "command": SLEEP,
        "livenessProbe": {
            "exec": {"command": ["/bin/busybox", "test", "-e", "/tmp/none"]},
            "periodSeconds": 1,
            "failureThreshold": 2,
            "timeoutSeconds": 30,
        },
    }
    drop(manifest("hung", containers=[("main", hung), ("beside", {"command": SLEEP})]))
    jobs = ("job", "bad-job", "vm-job")
    until(lambda: all(pods().get(name, {}).get("state") in ("succeeded", "failed") for name in jobs))
    there = pods()
    seen["jobs"] = {name: {
        "state": there[name]["state"], "reason": there[name]["reason"], "exit_codes": there[name]["exit_codes"],
        "up": [sandbox_ready(one) for one in sandboxes(name)],
        "log": subprocess.check_output([PROGRAM, "logs", name], text=True),
        "status": show(name, "ActiveState", "StatusText"),
    } for name in jobs}  # fmt: skip
    microvms = json.loads(subprocess.check_output(["/usr/lib/casemate/bin/casemate-microvm", "status"]))
    seen["guests_of_jobs"] = [one["id"] for one in microvms["sandboxes"] if one["id"] in
                              {box.id for box in sandboxes("vm-job")}]  # fmt: skip
    begun = {name: [one.id for one in containers(name).values()] for name in jobs}
    for name in jobs:
        kill(int(show(name, "MainPID")["MainPID"]))
    until(lambda: all(Path(f"/proc/{show(name, 'MainPID')['MainPID']}").exists() for name in jobs))
    time.sleep(3)
    seen["jobs_run_again"] = begun != {name: [one.id for one in containers(name).values()] for name in jobs}

    until(lambda: containers("hung").get("main") and containers("hung")["main"].metadata.attempt >= 1)
    there, now = pods()["hung"], containers("hung")
    seen["hung"] = {"attempt": now["main"].metadata.attempt, "beside": now["beside"].metadata.attempt,
                    "events": {e["reason"] for e in there["events"]} >= {"Unhealthy", "Killing"}}  # fmt: skip
    ready("stubborn")
    box = sandboxes("stubborn")[0].id
    take_back("stubborn")
    lines = [line.split() for line in (shared / "log").read_text().splitlines()]
    term = [float(at) for what, at in lines if what == "TERM"]
    last = max(float(at) for what, at in lines if what == "alive")
    seen["stubborn"] = {"terms": len(term), "lived_on_s": round(last - term[0], 1),
                        "gone": box not in [one.id for one in cri.sandboxes()]}  # fmt: skip
    shutil.rmtree(shared)
    watcher.join()
    take_back("hung", looping, *jobs)
    return seen


def read_log(pod, *which):
    return subprocess.check_output([PROGRAM, "logs", "--timestamps", *which, pod], text=True).split()


def crashes(pod):
    """What is told of a pod whose container always fails; its runner is killed while the container waits."""

    def backs_off(restarts):
        row = pods().get(pod, {"restarts": 0, "reason": ""})
        # a start that was cut off with its runner is another thing, and counts as well
        waits = row["reason"].startswith("CrashLoopBackOff: container main exited 3")
        return row if row["restarts"] >= restarts and waits else None

    until(lambda: backs_off(2))
    kill(int(show(pod, "MainPID")["MainPID"]))
    row = until(lambda: backs_off(3))
    lines = [e["MESSAGE"] for e in journal(pod)]
    # the next attempt may start any moment, and has no line yet then
    log = until(lambda: read_log(pod), 30)
    former = read_log(pod, "--previous")
    status = until(lambda: next((t for t in [show(pod, "StatusText")["StatusText"]] if "BackOff" in t), ""), 120)
    ends = [datetime.fromisoformat(text[0]).timestamp() for text in (former, log) if text]
    return {"restarts": row["restarts"], "state": row["state"], "reason": row["reason"], "ready": row["ready"],
            "exit_codes": row["exit_codes"], "events": [e["reason"] for e in row["events"]],
            "status": status, "log": log[1:],
            "waits": [line.split("next start ")[1] for line in lines if line.startswith("BackOff")],
            "last_wait_s": ends[-1] - ends[0] if len(ends) == 2 else None,
            "warned": [e["PRIORITY"] for e in journal(pod) if e["MESSAGE"].startswith("BackOff")]}  # fmt: skip


def hostile():
    """What people and accidents do to the directories that the runners use."""
    seen = {}
    names = ["calm-0", "calm-1"]
    for name in names:
        drop(manifest(name))
    seen["ready"] = ready(*names)
    before = {name: [one.id for one in containers(name).values()] for name in names}
    junk = MANIFESTS / "junk"
    try:
        for number in range(1000):
            content = ["{", "\x00\xff", "kind: Pod\n" * 50, "- " * 500, "kind: ConfigMap"][number % 5]
            suffix = ["json", "yaml", "yml", "txt", "yaml~"][number // 5 % 5]
            junk.with_name(f"junk-{number}.{suffix}").write_text(content)
        drop(manifest("among"))
        seen["among_junk"] = ready("among")
    finally:
        for path in MANIFESTS.glob("junk-*"):
            path.unlink()
    settle()
    shutil.rmtree(RUN / "pods")
    seen["states_back"] = bool(until(lambda: all((RUN / f"pods/{name}.json").exists() for name in names)))
    shutil.rmtree(RUN / "pods")
    for path in ("pods.lock", "pods.seen"):
        (RUN / path).unlink(missing_ok=True)
    subprocess.run([PROGRAM, "sync"], check=True, capture_output=True)
    seen["ready_after"] = ready(*names, "among")

    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", RUN / "pods"], check=True)
    try:
        filler = RUN / "pods/filler"
        try:
            with filler.open("wb") as file:
                for _ in range(1000):
                    file.write(bytes(4096))
                    file.flush()
        except OSError as error:
            seen["full"] = error.errno
        pid = show(names[0], "MainPID")
        main = containers(names[0])["main"].id
        subprocess.run([*["ctr", "-n", "k8s.io", "tasks", "kill", "-s", "KILL"], main], check=True)
        seen["restarted_on_a_full_disk"] = bool(until(lambda: containers(names[0])["main"].metadata.attempt == 1))
        seen["runner_stayed"] = show(names[0], "MainPID") == pid
    finally:
        subprocess.run(["umount", RUN / "pods"], check=True)
    seen["state_after_full"] = bool(until(lambda: pods().get(names[0], {}).get("restarts") == 1))
    ready(*names)
    now = {name: [one.id for one in containers(name).values()] for name in names}
    seen["undisturbed"] = before[names[1]] == now[names[1]]
    stopped = threading.Thread(target=lambda: subprocess.run([PROGRAM, "remove", "among"], check=True))
    stopped.start()
    removed = subprocess.run([PROGRAM, "remove", "calm-0"], capture_output=True, text=True)
    stopped.join()
    seen["two_removals"] = [removed.returncode, "calm-0" in pods(), "among" in pods()]
    take_back(*names, "among")
    return seen


def settle():
    until(lambda: show_service() not in ("activating", "active"))


if __name__ == "__main__":
    signal.alarm(4 * LIMIT)
    print(json.dumps({f.__name__: f for f in (arrivals, ends, hostile)}[sys.argv[1]]()))
