"""The lab cleans up after itself, however its commands end."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from appliance.lab import manage, state
from tests.conftest import ROOT, appliance
from tests.e2e import traces
from tests.e2e.conftest import seed

pytestmark = pytest.mark.lab

LONGEST = 12.0  # seconds; a host is up after about that time


@pytest.fixture
def name():
    """A name for a host of the test's own, gone afterwards in any case."""
    name = f"e2e{os.getpid()}z"
    yield name
    if state.load(name):
        manage.down([name])


def test_lab_down_leaves_nothing_of_a_host(name):
    before = traces.machine(name)
    assert appliance("lab", "up", "--name", name).returncode == 0
    assert traces.machine(name)["processes"]
    assert appliance("lab", "down", name).returncode == 0
    assert traces.machine(name) == before


def test_lab_down_leaves_nothing_of_a_host_whose_making_was_killed(name):
    killed_and_removed(name, random.Random(seed()).uniform(0, LONGEST))


@pytest.mark.full
@pytest.mark.parametrize("part", range(8))
def test_lab_down_leaves_nothing_wherever_the_making_was_killed(name, part):
    step = LONGEST / 8
    killed_and_removed(name, random.Random(f"{seed()} {part}").uniform(part * step, (part + 1) * step))


def killed_and_removed(name: str, moment: float) -> None:
    """Kill `lab up` after so many seconds, remove what it made, and compare the machine with before."""
    before = traces.machine(name)
    print(f"killing lab up after {moment:.2f} s")
    process = subprocess.Popen(
        [sys.executable, "-m", "appliance", "lab", "up", "--name", name],
        cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    time.sleep(moment)
    process.send_signal(signal.SIGKILL)
    process.wait()
    if state.load(name):  # else it was killed before it made anything
        done = appliance("lab", "down", name)
        assert done.returncode == 0, done.stderr
    assert traces.machine(name) == before
