"""Runs on an appliance: streaming Exec, Attach and PortForward in both handlers; prints one JSON object."""

import json
import os
import shutil
import sys
import time

from cri_pods import Pod, cri, sh, wait

from appliance.node.pods import streaming
from appliance.node.pods.cri_model import CriError
from appliance.node.pods.spdy import StreamingError


def main():
    shutil.rmtree("/tmp/casemate-test", ignore_errors=True)
    os.makedirs("/tmp/casemate-test")
    print(json.dumps({handler: look(handler) for handler in sys.argv[1:]}))


def look(handler):
    seen = {}
    pod = Pod("s", handler=handler)
    target = pod.container(*sh("while :; do sleep 1; done"))

    def run(*command, data=None, **options):
        code, out, err = streaming.execute(cri, target, list(command), **options).communicate(data)
        return [code, out.decode(), err.decode()]

    seen["apart"] = run(*sh("echo out; echo err >&2; exit 7"))
    seen["input"] = run(*sh('while read line; do echo "<$line>"; done; echo end'), data=b"a\nb\n", stdin=True)
    data = os.urandom(1 << 20)
    code, out, _ = streaming.execute(cri, target, ["/bin/busybox", "cat"], stdin=True).communicate(data)
    seen["megabyte"] = [code, out == data]
    # Sizes travel beside input, so the program waits for them.
    await_size = "until busybox stty size 2>/dev/null | grep '%s'; do :; done"
    sized = sh(f"{await_size % '33 77'}; read x; {await_size % '44 88'}; exit 3")
    terminal = streaming.execute(cri, target, sized, stdin=True, terminal=True)
    terminal.resize(33, 77)
    seen["terminal"] = heard(terminal, b"33 77")
    terminal.resize(44, 88)
    terminal.write(b"go\r")
    seen["terminal"] += heard(terminal, b"44 88")
    seen["terminal_code"] = terminal.communicate()[0]
    seen["missing"] = refused(lambda: run("/no/such/program"))

    echo = pod.container(*sh('while read line; do echo "<$line>"; done; exit 5'), stdin=True, stdin_once=True)
    code, out, _ = streaming.attach(cri, echo, stdin=True).communicate(b"one\ntwo\n")
    seen["attach"], seen["attached_code"] = [code, out.decode()], wait(echo)

    pod.container(*sh("mkdir -p /tmp/w; echo hello > /tmp/w/i; exec busybox httpd -f -p 8000 -h /tmp/w"), name="web")
    get = b"GET /i HTTP/1.0\r\n\r\n"

    def fetch(port):
        return refused(lambda: streaming.Forward(cri, pod.id, port).communicate(get).decode())

    end = time.monotonic() + 60
    while not (answer := fetch(8000)).endswith("hello\n") and time.monotonic() < end:
        time.sleep(0.5)  # it is starting
    seen["forward"], seen["forward_nothing"] = answer.splitlines()[-1:], fetch(8001)
    pod.remove()
    return seen


def heard(session, text, seconds=30):
    """Return what a session says up to `text`."""
    said = b""
    for _, piece in session.output(seconds):
        said += piece
        if text in said:
            break
    return said.decode()


def refused(action):
    try:
        return action()
    except (CriError, StreamingError) as error:
        return str(error)


if __name__ == "__main__":
    main()
