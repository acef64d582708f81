"""The line of a migration: frames, how a broken line is told from one that ended, and what an end says over it."""

import json
import os
import subprocess
import sys
import threading

import pytest

from appliance.node.migrate import wire
from tests.conftest import ROOT


@pytest.fixture
def pipe():
    out, into = os.pipe()
    with os.fdopen(into, "wb") as stream:
        yield out, stream
    os.close(out)


def test_frames_come_as_they_were_sent(pipe):
    out, stream = pipe
    sent = [(wire.COMMAND, b"{}"), (wire.PING, b""), (wire.DATA, b"x" * 3000), (wire.END, b"")]
    for kind, payload in sent:
        wire.write(stream, kind, payload)
    assert [wire.read(out) for _ in sent] == sent


@pytest.mark.parametrize("kept", [0, 1, 4, 5, 6, 14])
def test_a_line_that_ends_anywhere_is_broken(pipe, kept):
    out, stream = pipe
    stream.write((wire.DATA + (10).to_bytes(4, "big") + b"0123456789")[:kept])
    stream.close()
    with pytest.raises(wire.LineBroken, match="is gone"):
        wire.read(out)


def test_a_silent_line_is_broken_and_a_ping_keeps_it(pipe):
    out, stream = pipe
    timer = threading.Timer(0.2, wire.write, (stream, wire.PING))
    timer.start()
    assert wire.read(out, silence=5) == (wire.PING, b"")
    timer.join()
    with pytest.raises(wire.LineBroken, match="nothing was heard"):
        wire.read(out, silence=0.1)


@pytest.mark.parametrize("head", [b"X\0\0\0\0", b"D\xff\xff\xff\xff"])
def test_what_is_no_frame_is_refused(pipe, head):
    out, stream = pipe
    stream.write(head)
    stream.flush()
    with pytest.raises(wire.LineBroken, match="no frame"):
        wire.read(out)


class End:
    """An end as it is on a host, without an id: one that only answers."""

    def __init__(self, *words: str):
        start = "import sys; from appliance.node.migrate.cli import main; sys.exit(main())"
        argv = [sys.executable, "-c", start, *words]
        self.process = subprocess.Popen(
            argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def hear(self) -> dict:
        kind, payload = wire.read(self.process.stdout.fileno(), 30)
        assert kind == wire.COMMAND
        return json.loads(payload)

    def ask(self, verb: str, **words: object) -> dict:
        wire.write(self.process.stdin, wire.COMMAND, json.dumps({"do": verb, **words}).encode())
        return self.hear()

    def close(self) -> tuple[int, str]:
        _, said = self.process.communicate(timeout=30)
        return self.process.returncode, said.decode()


def test_an_end_greets_and_says_goodbye():
    end = End("source")
    assert end.hear() == {"hello": 1}
    assert end.ask("has_left", identity="nobody") == {"done": False}
    assert end.ask("bye") == {"done": None}
    assert end.close()[0] == 0


@pytest.mark.parametrize(("end", "verb"), [("source", "let_go"), ("source", "stop"), ("target", "start")])
def test_an_end_without_an_id_changes_nothing(end, verb):
    asked = End(end)
    asked.hear()
    assert f"{verb} is not for an end without --id" in asked.ask(verb)["error"]
    assert asked.process.wait(30) == 1  # by itself
    asked.close()


def test_an_end_is_gone_with_its_line():
    end = End("target")
    end.hear()
    end.process.stdin.close()
    assert end.process.wait(30) == 3
    assert b"the other end is gone" in end.process.stderr.read()
    end.process.stdout.close()
    end.process.stderr.close()
