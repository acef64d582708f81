"""Runs on an appliance: restarts and replaces runners and engine beneath pods that serve; prints JSON.

usage: undisturbed plain|packages

A web server in a pod of each handler is asked ten times a second through its host port all the while. Needs the test
image nginx. {"asked", "failed": [what went wrong], "restarts": a list each, a value for a handler, "rows": [{"step",
"same": by handler, the pod's processes and their start times are as they were, "ready": all are}]}.
"""

import json
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

from crashes import engine, engine_back, kill, pid_of
from cri_pods import cri
from declared import drop, manifest, pods, ready, show, take_back, until
from upgrades import install

from appliance.node.pods.translate import managed_labels

PORTS = {"runc": 18081, "microvm": 18082}
# nginx answers in one process: a server that forks for each request falls behind in an emulated guest on a busy machine
CONF = (
    "daemon off; master_process off; error_log stderr; pid /tmp/pid; events {} "
    "http { access_log off; server { listen 8000 backlog=1024; location / { return 200 hello; } } }"
)
SERVE = {"image": "localhost/casemate-test/nginx:1",
         "command": ["/bin/sh", "-c", f"echo '{CONF}' > /tmp/conf; exec nginx -c /tmp/conf"]}  # fmt: skip
PERIOD = 0.1


class Asker:
    """Asks a port ten times a second, however long an answer takes. `CONF`'s server is what answers."""

    def __init__(self, port):
        self.url = f"http://{address()}:{port}/"
        self.asked, self.failed, self._over, self._threads = 0, [], threading.Event(), []
        self._clock = threading.Thread(target=self._run)
        self._clock.start()

    def _run(self):
        due = time.monotonic()
        while not self._over.is_set():
            self._threads.append(threading.Thread(target=self._ask))
            self._threads[-1].start()
            self.asked += 1
            due += PERIOD
            time.sleep(max(0, due - time.monotonic()))

    def _ask(self):
        at = time.strftime("%H:%M:%S")
        try:
            with urllib.request.urlopen(self.url, timeout=60) as answer:
                if answer.read() != b"hello":
                    self.failed.append(f"{at}: another page")
        except OSError as error:
            self.failed.append(f"{at}: {error}")

    def end(self):
        self._over.set()
        self._clock.join()
        for thread in self._threads:
            thread.join()


def address():
    return subprocess.check_output(["hostname", "-I"], text=True).split()[0]


def name(handler):
    return f"serve-{handler}"


def look(handler):
    """PID and start time (in ticks since boot) of a pod's sandbox and containers."""
    found = {}
    for sandbox in cri.sandboxes(managed_labels(name(handler))):
        for identifier in [sandbox.id, *(container.id for container in cri.containers(sandbox.id))]:
            pid = pid_of(identifier)
            found[identifier] = [pid, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]]
    return found


def runners():
    return {handler: int(show(name(handler), "MainPID")["MainPID"]) for handler in PORTS}


def kill_runners():
    before = runners()
    for pid in before.values():
        kill(pid)
    until(lambda: all(pid and pid != before[handler] for handler, pid in runners().items()))


def restart_engine():
    subprocess.run(["systemctl", "restart", "containerd"], check=True)


def kill_engine():
    kill(engine())
    engine_back()


def offered():
    """containerd's other version, where apt has one, and the one that is here, so that it is replaced twice."""
    lines = subprocess.check_output(["apt-cache", "madison", "containerd"], text=True).splitlines()
    here = subprocess.check_output(["dpkg-query", "-W", "-f", "${Version}", "containerd"], text=True)
    return [*[version for line in lines if (version := line.split("|")[1].strip()) != here][:1], here]


STEPS = {
    "plain": [("runners killed", kill_runners), ("engine restarted", restart_engine), ("engine killed", kill_engine)],
    "packages": [(f"containerd {v}", lambda v=v: install("containerd", v)) for v in offered()],
}


def main(what):
    for handler, port in PORTS.items():
        ports = [{"containerPort": 8000, "hostPort": port}]
        probe = {"tcpSocket": {"port": 8000}, "periodSeconds": 1, "timeoutSeconds": 30}
        web = SERVE | {"ports": ports, "readinessProbe": probe}
        drop(manifest(name(handler), containers=[("web", web)], runtimeClassName=handler))
    names = [name(handler) for handler in PORTS]
    seen = {"rows": []}
    try:
        assert ready(*names), pods()
        before = {handler: look(handler) for handler in PORTS}
        askers = [Asker(port) for port in PORTS.values()]
        for step, do in STEPS[what]:
            do()
            engine_back()
            row = {"step": step, "same": {handler: look(handler) == before[handler] for handler in PORTS}}
            row["ready"] = ready(*names)
            seen["rows"].append(row)
            time.sleep(2)
        for asker in askers:
            asker.end()
        there = pods()
        seen["asked"] = [asker.asked for asker in askers]
        seen["failed"] = [asker.failed for asker in askers]
        seen["restarts"] = [there[one]["restarts"] for one in names]
    finally:
        take_back(*names)
    print(json.dumps(seen))


if __name__ == "__main__":
    main(sys.argv[1])
