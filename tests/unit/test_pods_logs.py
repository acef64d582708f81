"""Reading CRI logs: which lines, across rotation and restarts, and when following ends."""

import os
import re
import threading
import time

import pytest

from appliance.node.pods import logs
from appliance.node.pods.logs import Choice, NoLog
from appliance.node.pods.names import NoSuchPod


def line(second: int, text: str, tag: str = "F", stream: str = "stdout") -> str:
    return f"2026-01-01T00:00:{second:02}.123456789Z {stream} {tag} {text}\n"


@pytest.fixture
def web(tmp_path):
    """A container's log directory with two attempts, the second rotated."""
    directory = tmp_path / "default_shop_uid" / "web"
    directory.mkdir(parents=True)
    (directory / "0.log").write_text(line(1, "first"))
    (directory / "1.log.1").write_text(line(2, "two") + line(3, "three", stream="stderr"))
    (directory / "1.log").write_text(line(4, "fo", "P") + line(5, "ur"))
    return directory


@pytest.mark.parametrize(
    ("choice", "text"),
    [
        (Choice(), "two\nthree\nfour\n"),
        (Choice(tail=3), "three\nfour\n"),
        (Choice(tail=0), ""),
        (Choice(previous=True), "first\n"),
        (Choice(since=logs.moment("2026-01-01T00:00:04Z")), "four\n"),
        (Choice(tail=1, timestamps=True), "2026-01-01T00:00:05.123456789Z ur\n"),
    ],
)
def test_the_lines_that_were_asked_for_are_printed(web, capfdbinary, choice, text):
    logs.show(web, choice)
    assert capfdbinary.readouterr().out.decode() == text


def test_moments():
    assert [logs.moment(text, 100_000) for text in ("90s", "5m", "2h", "1d")] == [99_910, 99_700, 92_800, 13_600]
    with pytest.raises(ValueError, match=re.escape("yesterday")):
        logs.moment("yesterday")


def test_what_is_not_there_is_named_with_what_is(web, tmp_path):
    assert logs.containers("shop", tmp_path) == logs.containers("default/shop", tmp_path) == {"web": web}
    with pytest.raises(NoSuchPod, match="these do: shop"):
        logs.containers("nope", tmp_path)
    (tmp_path / "other_shop_uid" / "web").mkdir(parents=True)
    with pytest.raises(NoSuchPod, match="default/shop, other/shop"):
        logs.containers("shop", tmp_path)
    (web / "0.log").unlink()
    with pytest.raises(NoLog, match="former"):
        logs.show(web, Choice(previous=True))


def test_following_goes_on_over_rotation_and_restart_and_ends_with_the_container(web, capfdbinary):
    over = threading.Event()
    follower = threading.Thread(target=logs.show, args=(web, Choice(tail=1), over.is_set))
    follower.start()
    said = b""

    def wait_for(text: bytes) -> None:
        nonlocal said
        end = time.monotonic() + 30
        while text not in said and time.monotonic() < end:
            said += capfdbinary.readouterr().out
            time.sleep(0.05)
        assert text in said

    wait_for(b"ur\n")
    with (web / "1.log").open("a") as file:
        file.write(line(6, "appended"))
        file.flush()
        wait_for(b"appended\n")
        (web / "1.log").rename(web / "1.log.1")
        file.write(line(7, "late"))  # the engine writes on until it is told of the rotation
    (web / "1.log").write_text(line(8, "rotated"))
    wait_for(b"rotated\n")
    (web / "2.log").write_text(line(9, "restarted"))
    wait_for(b"restarted\n")
    over.set()
    follower.join(30)
    assert not follower.is_alive()
    assert said == b"ur\nappended\nlate\nrotated\nrestarted\n"


def test_following_ends_when_nobody_reads(web, monkeypatch):
    read, write = os.pipe()

    monkeypatch.setattr("sys.stdout", os.fdopen(write, "w"))
    follower = threading.Thread(target=logs.show, args=(web, Choice(tail=0), lambda: False))
    follower.start()
    os.close(read)
    follower.join(30)
    assert not follower.is_alive()
