"""Runs on an appliance: how containers start, end, are stopped, killed, paused, listed and removed."""

import json
import subprocess
import time

from behaviour_image import STOP_SIGNALS, image
from cri_pods import cri, execute, refusal, status, wait

RUNC_ROOT = "/run/containerd/runc/k8s.io"
BINARIES = {"runc": "runc", "microvm": "/usr/lib/casemate/bin/casemate-microvm"}
SLEEP = ["/bin/sh", "-c", "trap 'exit 3' TERM; while :; do sleep 0.2; done"]


def run(pod, script, **fields):
    """Start a container with a shell script; return its id."""
    return pod.container("/bin/sh", "-c", script, **{"image": image()} | fields)


def runtime(pod, *arguments):
    """Call the handler's OCI runtime as the shim does."""
    argv = [BINARIES[pod.handler], "--root", RUNC_ROOT, *arguments]
    return subprocess.run(argv, capture_output=True, text=True)


def heard(pod, name, text, seconds=60):
    """Wait until a container has written `text`."""
    end = time.monotonic() + seconds
    while text not in (log := pod.log(name)["stdout"]) and time.monotonic() < end:
        time.sleep(0.05)
    return log


def kind_of_end(identifier):
    wait(identifier)
    found = status(identifier)
    return [found.state, found.exit_code, found.reason]


def case_states_and_reasons(pod):
    """Created, running, exited; times in order; codes and reasons."""
    identifier = run(pod, "read line; exit 42", name="states", start=False, stdin=True, stdin_once=True)
    states = [status(identifier).state]
    cri.call("StartContainer", 120, container_id=identifier)
    states.append(status(identifier).state)
    execute(identifier, "/bin/sh", "-c", "kill -9 -1")  # all but the first, which is not its to kill
    states.append(status(identifier).state)
    again = refusal(lambda: cri.call("StartContainer", 120, container_id=identifier))
    cri.call("StopContainer", 60, container_id=identifier, timeout=0)
    found = status(identifier)
    ended = kind_of_end(run(pod, "exit 0", name="good")), kind_of_end(run(pod, "exit 42", name="bad"))
    return {
        "states": [*states, found.state],
        "in_order": 0 < found.created_at <= found.started_at <= found.finished_at,
        "start_of_a_running_one_refused": again is not None,
        "start_of_an_ended_one_refused": refusal(lambda: cri.call("StartContainer", container_id=identifier))
        is not None,
        "ended": ended,
    }


def case_exit_codes(pod):
    """Exact codes of containers and of execs, signals as 128 + n."""
    containers = {code: run(pod, f"exit {code}", name=f"exit{code}") for code in (0, 1, 127, 128, 255)}
    host = run(pod, "while :; do sleep 1; done", name="codes")
    executed = {code: execute(host, "/bin/sh", "-c", f"exit {code}")[0] for code in (0, 2, 126, 129, 200, 255)}
    signals = {n: execute(host, "/bin/sh", "-c", f"kill -{n} $$; sleep 5")[0] for n in (1, 6, 9, 11, 15)}
    return {
        "containers_exact": all(wait(identifier) == code for code, identifier in containers.items()),
        "execs_exact": all(code == found for code, found in executed.items()),
        "signals": sorted(signals.values()),
    }


def case_stop_signals(pod):
    """StopContainer sends what the image says; what does not listen is killed after the grace period."""
    seen = {}
    for signal, number in STOP_SIGNALS.items():
        script = f"trap 'echo caught; exit 7' {number}; echo ready; while :; do sleep 0.1; done"
        name = f"stop{number}"
        identifier = run(pod, script, name=name, image=image(signal))
        heard(pod, name, "ready")
        cri.call("StopContainer", 120, container_id=identifier, timeout=60)
        seen[signal] = [wait(identifier), pod.log(name)["stdout"]]
    deaf = run(pod, "trap '' TERM; echo ready; while :; do sleep 0.1; done", name="deaf")
    heard(pod, "deaf", "ready")
    cri.call("StopContainer", 120, container_id=deaf, timeout=1)
    seen["deaf"] = kind_of_end(deaf)
    cri.call("StopContainer", 60, container_id=deaf, timeout=1)  # once more does no harm
    return seen


def case_every_signal(pod):
    """Each signal that can be caught reaches the program."""
    signals = [n for n in range(1, 65) if n not in (9, 19, 32, 33)]
    traps = "; ".join(f"trap 'echo got {n}' {n}" for n in signals)
    identifier = run(pod, f"{traps}; echo ready; while :; do read line; done", name="signals", stdin=True)
    heard(pod, "signals", "ready")
    for number in signals:
        runtime(pod, "kill", identifier, str(number))
        if number in (18, 20, 21, 22):  # the kernel drops a pending SIGCONT for one that stops, and the other way round
            heard(pod, "signals", f"got {number}\n", 30)
    heard(pod, "signals", f"got {signals[-1]}\n")
    time.sleep(0.5)
    caught = {int(line.split()[1]) for line in pod.log("signals")["stdout"].splitlines()[1:]}
    cri.call("StopContainer", 60, container_id=identifier, timeout=0)
    return sorted(set(signals) - caught)


def case_a_stopped_program(pod):
    """SIGSTOP holds the program, and SIGCONT lets it go on."""
    identifier = run(pod, "i=0; while :; do i=$((i+1)); echo $i > /count; sleep 0.05; done", name="held")
    execute(identifier, "/bin/sh", "-c", "until [ -s /count ]; do sleep 0.1; done")
    codes = [runtime(pod, "kill", identifier, "SIGSTOP").returncode]
    first = execute(identifier, "cat", "/count")[1]
    later = execute(identifier, "/bin/sh", "-c", "sleep 0.5; cat /count")[1]
    codes.append(runtime(pod, "kill", identifier, "SIGCONT").returncode)
    changed = execute(
        identifier, "/bin/sh", "-c", f"while [ \"$(cat /count)\" = '{later.strip()}' ]; do sleep 0.1; done"
    )
    cri.call("StopContainer", 60, container_id=identifier, timeout=0)
    return {"codes": codes, "held": first == later, "goes_on": changed[0] == 0}


def case_removal(pod):
    """A running container is removed; again is no error; nothing of it is listed; its name is free again."""
    config = {"metadata": {"name": "same", "attempt": 0}}
    identifier = run(pod, "while :; do sleep 1; done", name="removed", **config)
    taken = refusal(lambda: run(pod, "exit 0", name="taken", **config))
    cri.call("RemoveContainer", 60, container_id=identifier)
    cri.call("RemoveContainer", 60, container_id=identifier)
    listed = identifier in [c.id for c in cri.containers(pod.id)]
    gone = refusal(lambda: status(identifier))
    anew = run(pod, "exit 5", name="again", **config)
    return {
        "name_was_taken": taken is not None, "listed": listed, "gone": "NOT_FOUND" in (gone or ""), "anew": wait(anew),
    }  # fmt: skip


def case_listing(pod):
    """Filters by id, pod and label."""
    one = run(pod, "exit 0", name="listed", labels={"colour": "blue"})
    other = run(pod, "exit 0", name="other", labels={"colour": "red"})

    def found(**fields):
        ids = {c.id for c in cri.call("ListContainers", filter=fields).containers}
        return [one in ids, other in ids]

    return {
        "id": found(id=one), "pod": found(pod_sandbox_id=pod.id), "label": found(label_selector={"colour": "red"}),
        "nothing": found(pod_sandbox_id=pod.id, label_selector={"colour": "green"}),
    }  # fmt: skip


def case_programs_that_cannot_run(pod):
    """Words of the refusal, and what the container's status then says."""
    seen = {}
    programs = {"missing": "/no/such/program", "no program": "/etc/not-executable"}
    for what, program in programs.items():
        identifier = pod.container(program, image=image(), name="cannot", start=False)
        words = refusal(lambda: cri.call("StartContainer", 60, container_id=identifier))  # noqa: B023 (called at once)
        found = status(identifier)
        seen[what] = [cause(words), found.exit_code, found.reason]
    return seen


def cause(words):
    """What a refusal says of a program, whichever runtime says it; all of it where that is something else."""
    causes = {
        "no such file or directory": "missing",
        "permission denied": "not executable",
        "not executable": "not executable",
    }
    return words and next((cause for said, cause in causes.items() if said in words.lower()), words)


def case_what_outlives_its_program_ends(pod):
    """A container's other processes end with its first, and with an exec that is killed."""
    identifier = run(pod, "sleep 1000 & echo ready; read line; exit 4", name="outlived", stdin=True, stdin_once=True)
    heard(pod, "outlived", "ready")
    slow = refusal(lambda: execute(identifier, "/bin/sh", "-c", "exec sleep 777", timeout=1))
    seconds = time.monotonic() + 30
    while "777" in (processes := execute(identifier, "ps", "-o", "args")[1]) and time.monotonic() < seconds:
        time.sleep(0.2)
    cri.call("StopContainer", 60, container_id=identifier, timeout=0)
    return {
        "exec": "DEADLINE_EXCEEDED" in (slow or "") or slow, "its_program_left": "777" in processes,
        "the_containers_own_left": "sleep 1000" in processes, "code": wait(identifier),
    }  # fmt: skip


def case_pause(pod):
    """A paused container does nothing, says so, and goes on where it was."""
    identifier = run(pod, "i=0; while :; do i=$((i+1)); echo $i > /count; sleep 0.05; done", name="paused")
    execute(identifier, "/bin/sh", "-c", "until [ -s /count ]; do sleep 0.1; done")
    ctr("task", "pause", identifier)
    state = json.loads(runtime(pod, "state", identifier).stdout)["status"]
    refused = refusal(lambda: execute(identifier, "cat", "/count"))
    ctr("task", "resume", identifier)
    # the file is empty for a moment each time that it is written
    count = 'c=; until [ "$c" ]; do c=$(cat /count); done; echo $c'
    first = int(execute(identifier, "/bin/sh", "-c", count)[1])
    later = int(execute(identifier, "/bin/sh", "-c", f"sleep 0.5; {count}")[1])
    cri.call("StopContainer", 60, container_id=identifier, timeout=0)
    return {"state": state, "exec_refused": refused is not None, "goes_on": later > first > 0}


def case_runtimes_own_verbs(pod):
    """state, ps and events of the OCI runtime."""
    identifier = run(pod, "while :; do sleep 1; done", name="verbs")
    state = json.loads(runtime(pod, "state", identifier).stdout)
    pids = json.loads(runtime(pod, "ps", "--format", "json", identifier).stdout)
    events = json.loads(runtime(pod, "events", "--stats", identifier).stdout)
    cri.call("StopContainer", 60, container_id=identifier, timeout=0)
    return {
        "state": [state["id"] == identifier, state["status"]], "its_process_listed": state["pid"] in pids,
        "events": [events["type"], events["id"] == identifier],
        "checkpoint_refused": runtime(pod, "checkpoint", identifier).returncode != 0,
    }  # fmt: skip


def ctr(*arguments):
    subprocess.run(["ctr", "-n", "k8s.io", *arguments], check=True, capture_output=True)


def case_a_pod_stops_with_its_containers(pod):
    """StopPodSandbox ends what runs; its containers are then exited, the sandbox not ready; again is no error."""
    mine = type(pod)("stopped", handler=pod.handler)
    identifier = run(mine, "while :; do sleep 1; done", name="inmate")
    ready = cri.call("PodSandboxStatus", pod_sandbox_id=mine.id).status.state
    cri.call("StopPodSandbox", 60, pod_sandbox_id=mine.id)
    cri.call("StopPodSandbox", 60, pod_sandbox_id=mine.id)
    seen = {"inmate": kind_of_end(identifier), "ready": ready}
    seen["stopped"] = cri.call("PodSandboxStatus", pod_sandbox_id=mine.id).status.state
    seen["new_container_refused"] = refusal(lambda: run(mine, "exit 0", name="late")) is not None
    mine.remove()
    cri.call("RemovePodSandbox", 60, pod_sandbox_id=mine.id)
    seen["listed"] = mine.id in [s.id for s in cri.sandboxes()]
    return seen
