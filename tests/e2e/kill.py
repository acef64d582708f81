"""Runs of the command that are ended from outside at a moment of their own choice."""

import contextlib
import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

from appliance.lab.state import Host
from tests.conftest import ROOT

TASKS = 36  # about as many as a first deploy runs on a host
LONGEST_DELAY = 6.0  # seconds into a task; most are shorter, the package transaction is longer


@dataclass
class Killed:
    """Where a deploy was killed: during which task, and with which code it ended."""

    phase: str
    task: str
    code: int


def deploy_killed(host: Host, chance: random.Random) -> Killed:
    """Start a deploy and kill the command with SIGKILL at a random moment of a random task."""
    number, delay = chance.randrange(TASKS), chance.uniform(0, LONGEST_DELAY)
    last = {"phase": "", "name": ""}
    with running("deploy", "--limit", host.name, "-o", "json") as process:
        for seen, event in enumerate(e for e in follow(process) if e["event"] == "task"):
            last = event
            if seen == number:
                break
        time.sleep(delay)
        process.kill()
        code = process.wait()
    print(f"killed {delay:.1f} s after the start of task {number}, {last['phase']}: {last['name']}")
    return Killed(last["phase"], last["name"], code)


@contextlib.contextmanager
def running(*words: str) -> Iterator[subprocess.Popen]:
    """The command, started; it is dead at the end, whatever happens."""
    process = subprocess.Popen(
        [sys.executable, "-m", "appliance", *words],
        cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def follow(process: subprocess.Popen) -> Iterator[dict]:
    """The events of a run with `-o json`, as they come."""
    for line in process.stdout:
        yield json.loads(line)


def wait_for_task(process: subprocess.Popen, name: str) -> None:
    """Read events until the named task has begun. Fails when the run ends before."""
    for event in follow(process):
        if event["event"] == "task" and event["name"] == name:
            return
    raise AssertionError(f"the run ended without a task {name!r}")
