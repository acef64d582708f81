"""The guest's agent, with no guest around it: what becomes of a call whose caller has gone."""

import os
import signal
import socket
import sys
from pathlib import Path

import pytest

from appliance.node.microvm import protocol

sys.path.insert(0, str(Path(protocol.__file__).parent))  # the agent finds its neighbours beside itself, as in the guest
from appliance.node.microvm.guest import agent

NO_PROCESS = 1 << 30  # beyond what a kernel gives


class Agent(agent.Agent):
    """Starts no program: `programs` has the arguments of each, and what is to be called with its exit code."""

    def __init__(self, port):
        self.programs = []
        super().__init__(port, disk="")

    def _spawn(self, argv, done, **stdio):
        self.programs.append((argv, done))


@pytest.fixture
def guest(tmp_path, monkeypatch):
    """A function that sends frames to an agent and lets it read them; and the agent."""
    (tmp_path / "bundles").mkdir()
    monkeypatch.setattr(agent, "RUN", tmp_path)
    monkeypatch.setattr(agent, "sealed_copy", lambda program: program)
    monkeypatch.setattr(agent, "make_root", lambda container: None)
    monkeypatch.setattr(agent.Agent, "_remove_root", lambda self, container: None)
    handler = signal.getsignal(signal.SIGCHLD)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        tested = Agent(theirs.fileno())

        def send(*frames):
            ours.sendall(b"".join(frames))
            for key, events in tested.selector.select(0):
                key.data(events)

        tested.said = lambda: ours.recv(65536)
        yield send, tested
        for process in tested.processes.values():
            tested._close(process)
        os.close(signal.set_wakeup_fd(-1))
        os.close(next(fd for fd in tested.selector.get_map() if fd != theirs.fileno()))
        tested.selector.close()
    signal.signal(signal.SIGCHLD, handler)


def created(tested):
    """Let ``crun create`` succeed, and return the verbs that were asked of crun until then, and since."""
    argv, done = tested.programs[0]
    Path(argv[argv.index("--pid-file") + 1]).write_text(str(NO_PROCESS))
    done(0)
    return [argv[5] for argv, _ in tested.programs]


CREATE = protocol.call(1, "create", id="c", spec={"process": {}}, processes_of=None)


def test_a_container_stays_for_a_caller_that_waited(guest):
    send, tested = guest
    send(CREATE)
    assert created(tested) == ["create"]
    send(protocol.frame(protocol.HANGUP, 1))
    assert list(tested.processes) == ["c"] and len(tested.programs) == 1
    assert b'"ok": true' in tested.said()


def test_a_container_goes_whose_caller_has_gone_before_it_was_there(guest):
    send, tested = guest
    send(CREATE, protocol.frame(protocol.HANGUP, 1))
    assert created(tested) == ["create", "delete"]
    assert tested.programs[1][0][-2:] == ["--force", "c"]
