"""The guest's agent, with no guest around it: what becomes of a call whose caller has gone."""

import contextlib
import json
import os
import signal
import socket
import sys
import threading
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


ENDED = protocol.frame(protocol.STDIN, 1)
GONE = protocol.frame(protocol.HANGUP, 1)


def test_a_container_stays_whose_caller_has_done_its_half(guest):
    send, tested = guest
    send(CREATE, ENDED, GONE)
    assert b'"ok": true' in tested.said()
    assert created(tested) == ["create"]
    assert list(tested.processes) == ["c"]


def test_a_container_goes_whose_caller_has_gone_before_it_was_there(guest):
    send, tested = guest
    send(CREATE, GONE)
    assert created(tested) == ["create", "delete"]
    assert tested.programs[1][0][-2:] == ["--force", "c"]


def test_a_container_goes_whose_caller_has_gone_before_its_own_half_was_done(guest):
    send, tested = guest
    send(CREATE)
    assert created(tested) == ["create"]
    send(GONE)
    assert tested.programs[1][0][-3:] == ["delete", "--force", "c"]


def test_what_went_wrong_is_told_to_who_starts_it_and_crun_is_not_asked_to_delete_what_it_has_not(guest, tmp_path):
    send, tested = guest
    send(CREATE, ENDED, GONE, protocol.call(2, "started", id="c"), protocol.call(3, "attach", key="c"))
    tested.said()
    argv, done = tested.programs[0]
    Path(argv[argv.index("--log") + 1]).write_text('{"level": "error", "msg": "no such program"}')
    done(1)
    assert tested.said().count(b"no such program") == 2
    send(protocol.call(4, "delete", id="c"))
    assert tested.processes == {} and len(tested.programs) == 1


def test_a_program_runs_once_its_container_is_there_without_crun(guest, tmp_path, monkeypatch):
    send, tested = guest
    monkeypatch.setattr(agent, "CRUN_STATE", tmp_path)
    (tmp_path / "c").mkdir()
    pipe = tmp_path / "c" / "exec.fifo"
    os.mkfifo(pipe)
    waiting = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    send(CREATE, ENDED, GONE, protocol.call(2, "attach", key="c"))
    assert pipe.exists()
    assert created(tested) == ["create"]
    assert (os.read(waiting, 9), pipe.exists()) == (bytes(1), False)
    os.close(waiting)


def test_crun_says_why_a_container_cannot_be_started(guest, tmp_path, monkeypatch):
    send, tested = guest
    monkeypatch.setattr(agent, "CRUN_STATE", tmp_path)
    send(CREATE, ENDED, GONE, protocol.call(2, "attach", key="c"))
    assert created(tested) == ["create", "start"]


@pytest.fixture
def waiting(guest, tmp_path):
    """`guest`, and what the waiting ``crun create`` reads its configuration from."""
    reading = []

    def read_pipe():
        while not reading:
            with contextlib.suppress(FileNotFoundError):
                reading.append(os.open(tmp_path / "bundles" / agent.FIRST / "config.json", os.O_RDONLY | os.O_NONBLOCK))

    crun = threading.Thread(target=read_pipe)
    crun.start()
    guest[1].start_first()
    crun.join()
    yield *guest, reading[0]
    os.close(reading[0])
    guest[1]._forget_first()


def test_the_first_container_is_given_to_the_crun_that_waits_and_later_ones_to_their_own(waiting, tmp_path):
    send, tested, pipe = waiting
    send(CREATE, ENDED, GONE)
    given = os.read(pipe, 1000)
    assert json.loads(given) == {"process": {}} and os.read(pipe, 1) == b"", "the end of the file is there"
    assert (tmp_path / "bundles" / agent.FIRST / "config.json").read_bytes() == given
    assert created(tested) == ["create"] and tested.programs[0][0][-1] == agent.FIRST
    send(protocol.call(2, "create", id="d", spec={"process": {}}, processes_of=None))
    assert [argv[-1] for argv, _ in tested.programs] == [agent.FIRST, "d"]
    send(
        protocol.call(3, "exec", id="c", process={}),
        protocol.call(4, "pause", id="c"),
        protocol.call(5, "delete", id="c"),
    )
    assert [(argv[5], argv[-1]) for argv, _ in tested.programs[2:]] == [
        (v, agent.FIRST) for v in ("exec", "pause", "delete")
    ]


@pytest.mark.parametrize("spec", [{"process": {"terminal": True}}, {"process": {}, "x": "x" * agent.PIPE_BYTES}])
def test_a_container_that_the_waiting_crun_cannot_create_gets_its_own_and_the_other_ends(waiting, spec):
    send, tested, pipe = waiting
    send(protocol.call(1, "create", id="c", spec=spec, processes_of=None))
    send()  # the rest of a long one
    assert [argv[-1] for argv, _ in tested.programs] == [agent.FIRST, "c"]
    assert os.read(pipe, 1) == b""
    tested.programs[0][1](1)
    assert list(tested.processes) == ["c"] and tested.processes["c"].start_result is None


@pytest.mark.parametrize("known", [True, False])
def test_a_waiting_crun_that_ends_is_not_waited_for(waiting, known):
    send, tested, pipe = waiting
    if known:
        tested.programs[0][1](137)
    os.dup2(tested.port, pipe)  # which closes the pipe's reading end
    send(CREATE)
    assert [argv[-1] for argv, _ in tested.programs] == [agent.FIRST, "c"]
