"""Fixtures that tests with lab hosts share, and what is shown of a lab host when such a test fails."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.lab import manage, state
from appliance.lab.state import Host

ROOT = Path(__file__).resolve().parents[1]
DEPLOY_SECONDS = 900
# who tells what of a failing host
JOURNAL = ["journalctl", "--no-pager", "-n", "60", "-o", "short-monotonic", "-p", "notice"]
CONFIGS = ("config.toml", ".conflist", "prometheus.yml", ".service", ".mount", "microvm.json", "engine.json")


def appliance(*words: str, timeout: float = DEPLOY_SECONDS, **options) -> subprocess.CompletedProcess:
    """Run the command of this checkout, off a terminal; its output as text."""
    return subprocess.run(
        [sys.executable, "-m", "appliance", *words],
        cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=timeout, check=False, **options,
    )  # fmt: skip


def appliance_process(*words: str) -> subprocess.Popen:
    """Start the command of this checkout, for a test that does something to it."""
    return subprocess.Popen([sys.executable, "-m", "appliance", *words], cwd=ROOT, stdin=subprocess.DEVNULL,
                            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)  # fmt: skip


def on_host(host: Host, *command: str, check: bool = True, stdin: str | None = None) -> str:
    """What a command in the lab host prints."""
    done = subprocess.run(
        manage.shell(host.name, list(command)), capture_output=True, text=True, input=stdin, check=False
    )
    if check and done.returncode != 0:
        raise AssertionError(f"{host.name}: {' '.join(command)} ended {done.returncode}: {done.stderr}")
    return done.stdout


INSIDE = ROOT / "tests/inside"

# Whoever started us in the background may have had Ctrl-C ignored, which the commands under test would inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)


def inside(host: Host, script: str, *arguments: str, timeout: float = 600) -> dict:
    """Run a script of tests/inside in the lab host and return the JSON object that it prints."""
    packed = subprocess.run(["tar", "-c", "--exclude=__pycache__", "-C", INSIDE, "."], capture_output=True, check=True)
    run = (
        "at=$(mktemp -d) && trap 'rm -r $at' EXIT && tar -x -C $at && "
        'PYTHONPATH=/usr/lib/casemate/current python3 -B "$at/$0.py" "$@" </dev/null'
    )
    argv = manage.shell(host.name, ["sh", "-c", run, script, *arguments])
    done = subprocess.run(argv, capture_output=True, input=packed.stdout, timeout=timeout, check=False)
    assert done.returncode == 0, (done.stdout[-3000:] + done.stderr).decode()
    return json.loads(done.stdout)


@pytest.fixture(scope="session")
def new_host() -> Iterator:
    """A function that makes a lab host with a name that nobody else has; all of them go at the end of the session.

    It takes a tag for the name, and the options of manage.up.

    CASEMATE_E2E_RELEASE chooses the hosts' release, CASEMATE_KEEP_HOSTS lets them stay.
    """
    made: list[str] = []

    def make(tag: str, **options) -> Host:
        name = f"e2e{os.getpid()}{tag}"
        made.append(name)
        return manage.up([name], **{"release": os.environ.get("CASEMATE_E2E_RELEASE", "bookworm")} | options)[0]

    if os.geteuid() != 0:
        pytest.skip("lab hosts need root")
    yield make
    there = [name for name in made if state.load(name)]
    if there and not os.environ.get("CASEMATE_KEEP_HOSTS"):
        manage.down(there)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item):
    """A failed test with lab hosts shows their journals and our configurations."""
    report = yield
    if report.failed:
        hosts = {v.name: v for v in getattr(item, "funcargs", {}).values() if isinstance(v, Host)}
        for host in hosts.values():
            report.sections.append((f"lab host {host.name}", _tell(host)))
    return report


def _tell(host: Host) -> str:
    try:
        parts = [on_host(host, *JOURNAL, check=False)]
        for path in on_host(host, "cat", "/var/lib/casemate/files", check=False).splitlines():
            if path.endswith(CONFIGS):
                parts.append(f"--- {path}\n{on_host(host, 'head', '-n', '60', path, check=False)}")
    except Exception as error:  # a host that is gone must not hide the test's own failure
        return f"cannot be asked: {error}"
    return "\n".join(parts)
