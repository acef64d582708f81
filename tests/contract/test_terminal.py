"""The live view on a real terminal, read back from the screen that a person would have seen."""

import os
import re
import sys
import time

import pexpect
import pyte
import pytest

PROJECT = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
COLUMNS, LINES = 100, 30
RUNNING = "Wait a while"


@pytest.fixture
def terminal(here, tmp_path):
    """Starts `appliance deploy` of a play that waits `seconds` on a terminal; returns (process, read, screen)."""
    content, site = here
    playbook = content / "playbooks/deploy.yml"

    def start(seconds: int):
        playbook.write_text(playbook.read_text().replace("sleep 30", f"sleep {seconds}"))
        screen = pyte.Screen(COLUMNS, LINES)
        stream = pyte.ByteStream(screen)
        process = pexpect.spawn(
            sys.executable,
            ["-m", "appliance", "deploy", "-i", str(site)],
            cwd=str(tmp_path),
            dimensions=(LINES, COLUMNS),
            env={
                **os.environ, "CASEMATE_CONTENT": str(content), "PYTHONPATH": PROJECT,
                "XDG_STATE_HOME": str(tmp_path), "TERM": "xterm-256color",
            },
        )  # fmt: skip

        def read(until) -> bool:
            """Feed the screen until `until(screen)` holds; False when the program ended or 30 s passed before."""
            deadline = time.monotonic() + 30
            while time.monotonic() < deadline:
                if until(screen):
                    return True
                try:
                    stream.feed(process.read_nonblocking(4096, timeout=0.2))
                except pexpect.TIMEOUT:
                    continue
                except pexpect.EOF:
                    return until(screen)
            return False

        return process, read, screen

    return start


def text(screen: pyte.Screen) -> str:
    return "\n".join(line.rstrip() for line in screen.display).strip()


def never(screen: pyte.Screen) -> bool:
    return False


def test_the_running_task_is_shown_with_its_time_and_gone_at_the_end(terminal):
    process, read, screen = terminal(3)
    assert read(lambda s: re.search(rf"{re.escape(RUNNING)}  \d+\.\ds", text(s))), text(screen)
    read(never)
    process.wait()  # close() would kill it where the machine is busy
    process.close()
    assert process.exitstatus == 0
    shown = text(screen)
    assert RUNNING not in shown
    assert shown.startswith("deploy on here")
    assert "ok" in shown and "took" in shown.splitlines()[-1]
    assert screen.cursor.hidden is False


def test_ctrl_c_ends_the_run_with_130_and_gives_the_cursor_back(terminal):
    process, read, screen = terminal(30)
    assert read(lambda s: RUNNING in text(s)), text(screen)
    process.sendintr()
    read(never)
    process.wait()  # close() would kill it where the machine is busy
    process.close()
    assert process.exitstatus == 130
    assert "interrupted" in text(screen)
    assert "Traceback" not in text(screen)
    assert screen.cursor.hidden is False
