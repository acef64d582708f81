"""casemate_lock: one run at a time on a host; the second is told who the first is, a dead run's lock is void."""

import json
import os
import subprocess
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
from ansible.errors import AnsibleActionFail
from modules import load, run

ACTION = load("action/casemate_lock.py")


@pytest.fixture
def lock(tmp_path, monkeypatch):
    """The lock file, in a directory of its own."""
    return tmp_path / "run/casemate/run.lock"


@pytest.fixture
def take(lock, capsys, monkeypatch):
    """Runs the action of `owner` (see `ACTION.describe`) against the real module; returns its result."""
    module = load("modules/casemate_lock.py")
    monkeypatch.setattr(module, "LOCK", str(lock))
    monkeypatch.setattr("ansible.plugins.action.ActionBase.run", lambda self, tmp=None, task_vars=None: {})

    def act(owner: dict, state: str = "held") -> dict:
        monkeypatch.setenv("CASEMATE_RUN", json.dumps(owner))
        task = SimpleNamespace(args={"state": state}, async_val=0)
        action = ACTION.ActionModule(task, MagicMock(), MagicMock(), MagicMock(), MagicMock(), None)
        action._execute_module = lambda module_name, module_args, task_vars: run(module, capsys, **module_args)
        return action.run(task_vars={})

    return act


def owner(pid: int | None = None, **changes) -> dict:
    return {**ACTION.describe(pid or os.getpid(), "deploy"), **changes}


@pytest.fixture
def other():
    """A living process that is another run."""
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


def test_a_free_host_is_taken_and_the_lock_names_the_run(take, lock):
    mine = owner()
    assert take(mine)["changed"] is False
    assert json.loads(lock.read_text())["run"] == mine["run"]


def test_a_second_living_run_is_refused_and_told_who_the_first_is(take, other):
    take(owner(other.pid, user="alice", machine="desk"))
    with pytest.raises(AnsibleActionFail) as caught:
        take(owner())
    assert "'appliance deploy' by alice on desk" in str(caught.value)
    assert f"pid {other.pid}" in str(caught.value)


def test_the_same_run_takes_it_again(take):
    mine = owner()
    take(mine)
    assert "held_by" not in take(mine)


def test_the_lock_of_a_process_that_ended_here_is_replaced(take, lock, other):
    take(owner(other.pid))
    other.kill()
    other.wait()
    mine = owner()
    take(mine)
    assert json.loads(lock.read_text())["run"] == mine["run"]


def test_a_pid_that_was_given_to_another_process_is_not_its_owner(take, lock):
    """The owner's start time differs from that of the process which has its pid now."""
    take(owner(started="1", run="earlier"))
    take(owner())
    assert json.loads(lock.read_text())["run"] == owner()["run"]


def test_a_run_on_another_machine_cannot_be_asked_and_keeps_its_lock(take):
    take(owner(boot="another-boot", pid=999999, run="theirs"))
    with pytest.raises(AnsibleActionFail, match="expires after 30 minutes"):
        take(owner())


def test_a_lock_that_was_not_renewed_in_time_is_void(take, lock):
    take(owner(boot="another-boot", run="theirs"))
    old = lock.stat().st_mtime - ACTION.EXPIRES - 1
    os.utime(lock, (old, old))
    take(owner())
    assert json.loads(lock.read_text())["run"] == owner()["run"]


def test_letting_go_frees_the_host_for_others(take, lock, other):
    mine = owner()
    take(mine)
    take(mine, "free")
    assert lock.read_text() == ""
    take(owner(other.pid))


def test_nobody_lets_go_of_anothers_lock(take, lock, other):
    theirs = owner(other.pid)
    take(theirs)
    assert take(owner(), "free")["changed"] is False
    assert json.loads(lock.read_text())["run"] == theirs["run"]


def test_a_half_written_lock_is_a_free_one(take, lock):
    lock.parent.mkdir(parents=True)
    lock.write_text('{"run": "cut o')
    take(owner())
    assert json.loads(lock.read_text())["run"] == owner()["run"]
