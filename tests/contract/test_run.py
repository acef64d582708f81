"""Driving ansible-core: what becomes of the run when the one who watches it goes away, or when it cannot begin."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from appliance.errors import CasemateError
from appliance.inventory import load
from appliance.run import exit_code, run_playbook

PROJECT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    """Logs go to a directory of their own; SIGTERM means afterwards what it meant before."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    before = signal.getsignal(signal.SIGTERM)
    yield tmp_path / "state/casemate/logs"
    signal.signal(signal.SIGTERM, before)


def children() -> bool:
    try:
        os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return False
    return True


def test_a_run_ends_with_the_one_who_reads_its_events(here, monkeypatch):
    content, site = here
    monkeypatch.setenv("CASEMATE_CONTENT", str(content))

    def gone(event: dict) -> None:
        if event["event"] == "task":
            raise BrokenPipeError

    began = time.monotonic()
    with pytest.raises(BrokenPipeError):
        run_playbook("deploy", load([site], None, content=content), verb="deploy", on_event=gone)
    assert time.monotonic() - began < 25
    assert not children()


def test_sigterm_ends_the_run_with_130_and_a_summary(here, tmp_path):
    content, site = here
    process = subprocess.Popen(
        [sys.executable, "-m", "appliance", "deploy", "-i", str(site), "-o", "json"],
        cwd=tmp_path,
        env={**os.environ, "CASEMATE_CONTENT": str(content), "PYTHONPATH": str(PROJECT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in process.stdout:
        if '"task"' in line:
            break
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=25)
    assert process.returncode == 130, err
    assert '"summary"' in out.splitlines()[-1]
    assert "Traceback" not in err


def test_a_playbook_that_does_not_parse_is_an_error_with_the_logs_last_lines(here, monkeypatch):
    content, site = here
    (content / "playbooks/deploy.yml").write_text("- hosts: [\n")
    monkeypatch.setenv("CASEMATE_CONTENT", str(content))
    with pytest.raises(CasemateError, match="before it reached a host") as caught:
        run_playbook("deploy", load([site], None, content=content), verb="deploy", on_event=lambda e: None)
    assert Path(caught.value.place).is_file()


def test_logs_are_for_their_owner_alone_and_only_the_newest_stay(here, monkeypatch, state):
    content, site = here
    playbook = content / "playbooks/deploy.yml"
    playbook.write_text(playbook.read_text().replace("sleep 30", "sleep 0"))
    monkeypatch.setenv("CASEMATE_CONTENT", str(content))
    state.mkdir(parents=True)
    for number in range(30):
        (state / f"plan-{number:02}.log").touch()
        os.utime(state / f"plan-{number:02}.log", (number, number))
    outcome = run_playbook("deploy", load([site], None, content=content), verb="deploy", on_event=lambda e: None)
    assert exit_code(outcome) == 0
    logs = sorted(state.iterdir())
    assert len(logs) == 20
    assert logs[0].name.startswith("deploy-") and logs[0].stat().st_mode & 0o077 == 0
    assert "plan-29.log" in {log.name for log in logs} and "plan-05.log" not in {log.name for log in logs}
