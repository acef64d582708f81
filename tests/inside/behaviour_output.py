"""Runs on an appliance: what containers and execs print, read and look at on a terminal."""

import os
from pathlib import Path

from behaviour_lifecycle import cause, heard, run
from cri_pods import cri, execute, refusal, wait

from appliance.node.pods import streaming


def case_log_lines(pod):
    """Streams apart, a line without an end, one longer than the engine's 16 KiB, none at all."""
    identifier = run(
        pod, "echo out; echo err >&2; head -c 40000 /dev/zero | tr '\\0' x; echo; echo; printf tail", name="lines"
    )
    wait(identifier)
    lines = [line.split(" ", 3) for line in Path(pod.logs, "lines.log").read_text().splitlines()]
    # Between the two streams there is no order.
    return sorted(([stream, tag, len(text), text[:4]] for _, stream, tag, text in lines), key=lambda line: line[0])


def case_log_flood(pod):
    """Not a byte of 2.6 MB is lost, on either stream."""
    lines = 200_000
    # The engine gives the last bytes 2 s after a container's end, which a busy machine may not keep.
    wait(run(pod, f"seq 1 {lines}; seq 1 {lines} >&2; sleep 5", name="flood"), 300)
    expected = "".join(f"{n}\n" for n in range(1, lines + 1))
    log = pod.log("flood")
    return [log["stdout"] == expected, log["stderr"] == expected]


def case_log_reopened(pod):
    """After the log was moved away and reopened, new lines are in a new file."""
    identifier = run(pod, "echo one; read line; echo two", name="reopened", stdin=True, stdin_once=True)
    heard(pod, "reopened", "one")
    log = Path(pod.logs, "reopened.log")
    log.rename(log.with_suffix(".old"))
    cri.call("ReopenContainerLog", container_id=identifier)
    streaming.attach(cri, identifier, stdin=True).communicate(b"go\n")
    wait(identifier)
    return [log.with_suffix(".old").read_text().split()[-1], log.read_text().split()[-1]]


def case_exec_sync(pod):
    """Both streams, a megabyte of output, the container's directory, environment and user, errors of the call."""
    identifier = run(
        pod, "while :; do sleep 1; done", name="host", working_dir="/tmp", envs=[{"key": "A", "value": "b c"}],
        linux={"security_context": {"namespace_options": {"pid": 1}, "run_as_username": "worker"}},
    )  # fmt: skip
    code, out, _ = execute(identifier, "/bin/sh", "-c", "head -c 1000000 /dev/zero | tr '\\0' y")
    slow = refusal(lambda: execute(identifier, "sleep", "100", timeout=1))
    missing = refusal(lambda: execute(identifier, "/no/such/program"))
    return {
        "streams": execute(identifier, "/bin/sh", "-c", "echo o; echo e >&2; exit 9"),
        "megabyte": [code, out == "y" * 1_000_000],
        "inherits": execute(identifier, "/bin/sh", "-c", 'pwd; echo "$A"; id -u; id -g; id -G; tty')[1].split("\n"),
        "no_input": execute(identifier, "cat"),
        "slow": "DEADLINE_EXCEEDED" in (slow or "") or slow,
        "missing": cause(missing),
        "gone": refusal(lambda: execute(ended(pod), "true")) is not None,
    }


def ended(pod):
    identifier = run(pod, "exit 0", name="ended")
    wait(identifier)
    return identifier


def case_input(pod):
    """A container's input comes through attach, whole; without `stdin` there is none."""
    data = os.urandom(300_000)
    summer = run(pod, "md5sum; exit 6", name="summer", stdin=True, stdin_once=True)
    _, out, _ = streaming.attach(cri, summer, stdin=True).communicate(data)
    import hashlib

    silent = run(pod, "cat; echo $?", name="silent")
    wait(silent)
    return {
        "sum": out.split()[:1] == [hashlib.md5(data).hexdigest().encode()], "code": wait(summer),
        "without": pod.log("silent")["stdout"],
    }  # fmt: skip


def case_terminal(pod):
    """A container on a terminal: its size, one stream, its end through the line discipline, its exit code."""
    await_size = "until stty size | grep '%s'; do sleep 0.1; done"  # sizes travel beside input
    script = (
        f"echo ready; {await_size % '33 77'}; echo err >&2; read x; {await_size % '44 88'}; "
        "while read x; do echo $x; done; exit 5"
    )
    identifier = run(pod, script, name="terminal", tty=True, stdin=True)
    heard(pod, "terminal", "ready")
    session = streaming.attach(cri, identifier, stdin=True, terminal=True)
    session.resize(33, 77)
    said = talk(session, b"", b"err\r\n")
    session.resize(44, 88)
    said += talk(session, b"b\r", b"44 88\r\n")
    said += talk(session, b"typed\r", b"typed\r\ntyped")
    session.write(b"\x04")
    err = session.communicate()[2]
    return {
        "sizes": [size in said for size in (b"33 77\r\n", b"44 88\r\n")], "one_stream": b"err\r\n" in said and not err,
        "echo": b"typed\r\ntyped" in said, "code": wait(identifier),
        "log": "33 77" in pod.log("terminal")["stdout"],
    }  # fmt: skip


def case_exec_on_a_terminal(pod):
    """Interrupt, job control's hang-up and exit code of an interactive exec."""
    identifier = run(pod, "while :; do sleep 1; done", name="for-terminals")
    script = "trap 'echo interrupted; exit 8' INT; echo ready; while :; do sleep 0.1; done"
    session = streaming.execute(cri, identifier, ["/bin/sh", "-c", script], stdin=True, terminal=True)
    said = talk(session, b"", b"ready") + talk(session, b"\x03", b"interrupted")
    return ["interrupted" in said.decode(), session.communicate()[0]]


def talk(session, data, until, seconds=60):
    """Write `data` and return what is said up to `until`."""
    if data:
        session.write(data)
    said = b""
    for _, piece in session.output(seconds):
        said += piece
        if until in said:
            break
    return said
