"""The line to one end of a migration, with ends that are programs of this machine."""

import sys
import time

import pytest

from appliance import line, reach
from appliance.errors import CasemateError
from appliance.inventory import Host
from appliance.line import EndError, Line, relay
from tests.conftest import ROOT

HERE = Host("here", {"ansible_connection": "local"}, ())
# an end as a host has it, whose verbs are these
END = """
import sys, time
sys.path.insert(0, {root!r})
from appliance.node.migrate.session import Session, MigrationError, serve
session = Session()

def send(count):
    for _ in range(count):
        session.send(b"x" * 100_000)
    session.end()
    return count * 100_000

def send_half():
    session.send(b"x" * 100_000)
    raise MigrationError("the disk is gone")

def receive():
    return sum(map(len, session.data()))

def receive_little():
    next(session.data())
    raise MigrationError("No space left on device")

def lose():
    return sum(map(len, session.data())) - 1

verbs = {{one.__name__: one for one in (send, send_half, receive, receive_little, lose)}}
sys.exit(serve(session, verbs, ()))
"""


@pytest.fixture
def ends(monkeypatch):
    argv = [sys.executable, "-c", END.format(root=str(ROOT))]
    monkeypatch.setattr(reach, "argv", lambda host, command: argv)
    with Line(HERE, "source") as source, Line(HERE, "target") as target:
        yield source, target


def test_data_goes_from_one_end_to_the_other_and_is_counted(ends):
    source, target = ends
    pieces = []
    target.tell("receive")
    source.tell("send", count=100)
    assert relay(source, [target], pieces.append) == 10_000_000 == sum(pieces)
    target.tell("receive")  # and again, over the same line
    source.tell("send", count=0)
    assert relay(source, [target], pieces.append) == 0
    assert source.ask("bye") is None and target.ask("bye") is None


@pytest.mark.parametrize(
    ("send", "receive", "words"),
    [
        (("send_half", {}), "receive", "here: the disk is gone"),
        (("send", {"count": 500}), "receive_little", "here: No space left on device"),
        (("send", {"count": 1}), "lose", "here: 99999 bytes came of the 100000 that here sent"),
    ],
)
def test_what_is_not_the_whole_is_found_out_at_either_end(ends, send, receive, words):
    source, target = ends
    target.tell(receive)
    source.tell(send[0], **send[1])
    with pytest.raises(EndError, match=words):
        relay(source, [target], lambda size: None)


def test_a_line_closes_although_its_end_goes_on_sending(ends):
    source, _ = ends
    source.tell("send", count=500)
    began = time.monotonic()
    source.__exit__(None, None, None)
    assert time.monotonic() - began < 20


def test_an_end_that_is_not_there_is_told_with_the_cure(monkeypatch):
    monkeypatch.setattr(reach, "argv", lambda host, command: ["sh", "-c", "exit 127"])
    with pytest.raises(CasemateError) as raised, Line(HERE, "source"):
        pass
    assert "casemate-migrate is not there" in raised.value.message and raised.value.cure == "appliance deploy"


def test_another_migration_under_way_is_told_as_that(monkeypatch):
    words = "echo 'Failed: Unit casemate-migrate-source.service was already loaded or has a fragment file.' >&2; exit 1"
    monkeypatch.setattr(reach, "argv", lambda host, command: ["sh", "-c", words])
    with pytest.raises(EndError, match="another migration is under way on this host"), Line(HERE, "source", "id"):
        pass


def test_a_real_run_is_a_service_that_is_undone_when_it_ends():
    command = Line(HERE, "source", "id1")._command
    assert (
        command[0] == "systemd-run" and "--wait" in command and command[-4:] == [line.PROGRAM, "source", "--id", "id1"]
    )
    assert any(
        word.startswith("--property=ExecStopPost=") and word.endswith(f"{line.PROGRAM} undo") for word in command
    )
    assert Line(HERE, "source")._command == [line.PROGRAM, "source"]
