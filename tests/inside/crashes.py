"""Runs on an appliance: SIGKILLs the processes of pods in each state and prints, as JSON, what came of it.

usage: crashes SEED (plain|states|moments|"STATE VICTIM")

plain: the most telling; states: every other process in every state; moments: at random, while something is made.


One row a case: {"case": "STATE VICTIM", "hit": bool, "code": exit code or null, "error": text or null, "ready": bool,
"reported_s", "removed_s", "left": what is there that was not before, "engine": its version,
"in_guest": containers that a call which failed left in the guest}. Times are seconds from the SIGKILL (the call to
remove). "code" null with "error" null means that the container runs on.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from cri_pods import Pod, as_user, cmdline, cri, execute, sh, status
from traces import added, settled, traces

from appliance.node.microvm.sandboxes import Sandbox
from appliance.node.pods.cri import CriError

RUNC = ["runc", "--root", "/run/containerd/runc/k8s.io"]
CTR = ["ctr", "-n", "k8s.io"]
LIMIT = 60  # s, for what takes a second on a quiet machine

FOREVER = sh("trap '' TERM; echo up; while :; do sleep 1; done")


def pid_of(identifier):
    """The process that runc has for a sandbox (the supervisor) or a container (its stand-in); 0 when there is none."""
    done = subprocess.run([*RUNC, "state", identifier], capture_output=True)
    return json.loads(done.stdout)["pid"] if done.returncode == 0 else 0


def parent(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def processes(*words):
    """PIDs whose command line holds all `words`."""
    found = [pid for pid in os.listdir("/proc") if pid.isdigit() and all(w.encode() in cmdline(pid) for w in words)]
    return [int(pid) for pid in found if int(pid) != os.getpid()]


def engine():
    return int(subprocess.check_output(["systemctl", "show", "-p", "MainPID", "--value", "containerd"]))


def victim(name, sandbox, container=None):
    """The PID of a pod's process by its name; 0 when it is not there (yet)."""
    try:
        if name == "containerd":
            return engine()
        if name == "shim":
            return next(iter(processes("containerd-shim-runc-v2", sandbox, "-namespace")), 0)
        if name == "runtime":
            return next(iter(processes("microvm/__main__.py", "--root", container or sandbox)), 0)
        if name == "runc":
            return next((p for p in processes("runc", "--root", container or sandbox)
                         if cmdline(str(p)).startswith(b"runc")), 0)  # fmt: skip
        if name == "supervisor":
            return pid_of(sandbox)
        if name == "qemu":
            return next((p for p in processes("qemu-system") if parent(p) == pid_of(sandbox)), 0)
        if name == "stand-in":
            return pid_of(container)
        if name == "exec stand-in":
            return next((p for p in processes("_stand-in", f"{container}/")), 0)
    except (OSError, IndexError):  # gone while it was looked at
        return 0
    raise ValueError(name)


def kill(pid):
    """SIGKILL; False when there is nobody."""
    try:
        if pid:
            os.kill(pid, signal.SIGKILL)
        return bool(pid)
    except ProcessLookupError:
        return False


def engine_back():
    """Wait until the engine answers again (systemd starts it anew, and not at once after many times)."""
    end = time.monotonic() + LIMIT
    while True:
        try:
            return cri.call("Version", 5)
        except CriError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)
            subprocess.run(["systemctl", "reset-failed", "containerd"])
            subprocess.run(["systemctl", "start", "containerd"])


class Case:
    """One pod, one kill, what came of it."""

    def __init__(self, state, name):
        self.row = {"case": f"{state} {name}", "hit": False, "code": None, "error": None}
        self.name = name
        self.before = traces()
        self.pod = self.container = None

    def start(self, run=True, **fields):
        self.pod = Pod("crash")
        if run:
            self.container = self.pod.container(*FOREVER, **fields)

    def hit(self):
        self.at = time.monotonic()
        self.row["hit"] = kill(victim(self.name, self.pod.id, self.container))
        if self.name == "containerd":
            engine_back()

    def outcome(self):
        """Wait until the engine has told all that it should tell; after its own end, it must find the pod again."""
        pod_ends = self.name in ("qemu", "supervisor", "shim", "kernel")
        # A frozen stand-in cannot end before somebody thaws it, which stopping the pod does, and the shim's end.
        frozen = self.row["case"].startswith("paused") and self.name != "shim"
        container_ends = self.container and self.name != "containerd" and not frozen
        end = time.monotonic() + LIMIT
        while time.monotonic() < end:
            ready = cri.call("PodSandboxStatus", pod_sandbox_id=self.pod.id).status.state == 0
            code = self.code()
            if not (pod_ends and ready) and not (container_ends and code is None):
                break
            time.sleep(0.05)
        self.row |= {"code": code, "ready": ready, "reported_s": round(time.monotonic() - self.at, 1)}
        if self.name == "containerd" and self.container and code is None:
            self.row["exec"] = execute(self.container, *sh("echo alive"), timeout=LIMIT)[:2]

    def code(self):
        if not self.container:
            return None
        found = status(self.container)
        return found.exit_code if found.state == 2 else None

    def finish(self):
        """Remove the pod as the pod runner does, and see what is left."""
        begin = time.monotonic()
        if self.pod and hasattr(self.pod, "id"):
            try:
                self.pod.remove()
            except CriError:  # the shim ended under the call; whoever removes a pod asks again
                self.pod.remove()
        else:
            remove_all()
        self.row["removed_s"] = round(time.monotonic() - begin, 1)
        self.row["left"] = added(self.before, settled(self.before))
        return self.row


def remove_all():
    for sandbox in cri.sandboxes({"test": "microvm"}):
        cri.call("StopPodSandbox", LIMIT, pod_sandbox_id=sandbox.id)
        cri.call("RemovePodSandbox", LIMIT, pod_sandbox_id=sandbox.id)


def up(name):
    case = Case("up", name)
    case.start(run=False)
    case.hit()
    if name == "containerd":
        case.container = case.pod.container(*FOREVER)
    case.outcome()
    return case.finish()


def running(name):
    case = Case("running", name)
    case.start()
    case.hit()
    case.outcome()
    return case.finish()


def executing(name):
    case = Case("executing", name)
    case.start()
    thread = Call(lambda: execute(case.container, *sh("echo begun; while :; do sleep 1; done"), timeout=LIMIT))
    end = time.monotonic() + LIMIT
    while not victim("exec stand-in", case.pod.id, case.container) and time.monotonic() < end:
        time.sleep(0.05)
    time.sleep(0.5)
    case.hit()
    result = thread.join()
    case.row["error"] = thread.error or (None if result[0] == 0 else f"exit code {result[0]}")
    if name == "exec stand-in":
        case.row |= {"ready": True, "exec": execute(case.container, *sh("echo alive"), timeout=LIMIT)[:2]}
    else:
        case.outcome()
    return case.finish()


def stopping(name):
    case = Case("stopping", name)
    case.start()
    thread = Call(lambda: cri.call("StopContainer", LIMIT, container_id=case.container, timeout=5))
    time.sleep(1)
    case.hit()
    thread.join()
    if name == "containerd":  # the call went with the engine; kubelet makes it again
        cri.call("StopContainer", LIMIT, container_id=case.container, timeout=1)
    case.outcome()
    return case.finish()


def paused(name):
    case = Case("paused", name)
    case.start()
    subprocess.run([*CTR, "task", "pause", case.container], check=True, capture_output=True)
    case.hit()
    if name != "containerd":  # which does not know a paused container again (CRI has none), and only can remove it
        case.outcome()
    return case.finish()


def starting(name, delay):
    """Kill while a container is created and started, `delay` seconds after the call."""
    case = Case("starting", name)
    case.row["delay"] = round(delay, 2)
    case.start(run=False)
    case.container = case.pod.container(*FOREVER, start=False)
    thread = Call(lambda: cri.call("StartContainer", LIMIT, container_id=case.container))
    time.sleep(delay)
    case.hit()
    thread.join()
    case.row["error"] = thread.error
    if thread.error is None and case.row["hit"] and name not in ("runtime", "runc"):
        case.outcome()
    if thread.error and name in ("runtime", "runc"):
        case.row["in_guest"] = left_in_guest(case.pod.id)
    return case.finish()


def left_in_guest(sandbox):
    """The containers that a pod's guest still has, after a while for those that are on their way out."""
    end = time.monotonic() + LIMIT
    while (there := list(Sandbox(sandbox).stats()["containers"])) and time.monotonic() < end:
        time.sleep(0.2)
    return there


def creating(name, delay):
    """Kill while a sandbox is created, `delay` seconds after its directory is there."""
    case = Case("creating", name)
    case.row["delay"] = round(delay, 2)
    known = set(os.listdir("/run/casemate/microvm"))
    thread = Call(lambda: Pod("crash"))
    end = time.monotonic() + LIMIT
    while not (new := set(os.listdir("/run/casemate/microvm")) - known) and time.monotonic() < end:
        time.sleep(0.005)
    time.sleep(delay)
    case.at = time.monotonic()
    case.row["hit"] = kill(victim(name, next(iter(new))))
    if name == "containerd":
        engine_back()
    case.pod = thread.join()
    case.row["error"] = thread.error
    case.row["engine"] = cri.call("Version").runtime_version
    if case.pod and case.row["hit"] and name in ("supervisor", "shim"):
        case.outcome()
    return case.finish()


def frozen(name):
    """SIGSTOP, for a process that hangs: calls fail, and the pod can be removed all the same."""
    case = Case("frozen", name)
    case.start()
    case.at = time.monotonic()
    pid = victim(name, case.pod.id, case.container)
    os.kill(pid, signal.SIGSTOP)
    case.row["hit"] = True
    try:
        case.row["exec"] = execute(case.container, *sh("echo alive"), timeout=3)
    except CriError as error:
        case.row["error"] = str(error)[:300]
    case.row["reported_s"] = round(time.monotonic() - case.at, 1)
    return case.finish()


def panicked(name):
    """Let the guest's kernel panic, from a container with the rights to do so."""
    case = Case("panicked", name)
    context = as_user(0, 0)["security_context"] | {"masked_paths": ["/proc/kcore"], "readonly_paths": ["/proc/bus"]}
    case.start(linux={"security_context": context})
    case.at, case.row["hit"] = time.monotonic(), True
    try:
        code, _, words = execute(case.container, *sh("echo c > /proc/sysrq-trigger"), timeout=LIMIT)
        case.row["error"] = f"exit code {code} {words}" if code else None
    except CriError as error:
        case.row["error"] = str(error)[:300]
    case.outcome()
    return case.finish()


class Call:
    """A call in a thread of its own; `join` returns its result, or leaves its error."""

    def __init__(self, action):
        self.error = self.result = None
        self.thread = threading.Thread(target=self._run, args=(action,))
        self.thread.start()

    def _run(self, action):
        try:
            self.result = action()
        except CriError as error:
            self.error = str(error)[:300]

    def join(self):
        self.thread.join()
        return self.result


def main(seed, much):
    shutil.rmtree("/tmp/casemate-test", ignore_errors=True)
    os.makedirs("/tmp/casemate-test")
    Pod("warm").remove()
    pick = random.Random(seed)
    plain = [
        (up, "qemu"), (running, "qemu"), (running, "supervisor"), (running, "stand-in"), (running, "shim"),
        (running, "containerd"), (executing, "exec stand-in"), (stopping, "qemu"), (paused, "qemu"),
        (panicked, "kernel"), (frozen, "qemu"),
    ]  # fmt: skip
    rest = [
        (up, "supervisor"), (up, "shim"), (up, "containerd"), (executing, "qemu"), (executing, "supervisor"),
        (executing, "stand-in"), (executing, "shim"), (stopping, "supervisor"), (stopping, "stand-in"),
        (stopping, "shim"), (stopping, "containerd"), (paused, "supervisor"), (paused, "stand-in"), (paused, "shim"),
        (paused, "containerd"), (frozen, "supervisor"), (frozen, "stand-in"),
    ]  # fmt: skip
    early = [
        (state, name, pick.uniform(0, 1.5))
        for _ in range(1 if much == "plain" else 4)
        for state, names in ((creating, ("qemu", "supervisor", "shim", "containerd", "runtime", "runc")),
                             (starting, ("qemu", "supervisor", "stand-in", "shim", "containerd", "runtime", "runc")))
        for name in names
    ]  # fmt: skip
    if much == "plain":
        cases = plain + [case for case in early if case[1] in ("shim", "runtime")]
    elif much in ("states", "moments"):
        cases = {"states": rest, "moments": early}[much]
    else:
        cases = [case for case in plain + rest + early if f"{case[0].__name__} {case[1]}" == much]
    rows = []
    for action, *arguments in cases:
        try:
            rows.append(action(*arguments))
        except (CriError, AssertionError, subprocess.CalledProcessError) as error:
            rows.append({"case": f"{action.__name__} {arguments}", "broken": str(error)[:500]})
            remove_all()
        print(rows[-1], file=sys.stderr, flush=True)
    shutil.rmtree("/tmp/casemate-test")
    print(json.dumps({"rows": rows}, indent=1))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
