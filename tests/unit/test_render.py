"""What a program and a person get to see of the same events."""

import io
import json

import pytest
from rich.console import Console

from appliance.render import JsonLines, People

EVENTS = [
    {"event": "start", "time": 0.0, "verb": "deploy", "hosts": ["h1", "h2"]},
    {"event": "phase", "time": 0.1, "name": "engine"},
    {"event": "task", "time": 0.1, "phase": "engine", "name": "Configure [the] engine"},
    {
        "event": "change", "time": 1.0, "host": "h1", "phase": "engine", "task": "Configure [the] engine",
        "files": ["/etc/containerd/config.toml"],
        "diff": [{"before": "a = 1\n", "after": "a = 2\n", "before_header": "x", "after_header": "x"}],
    },
    {"event": "notice", "time": 1.5, "host": "h2", "phase": "engine", "msg": "disk is [small]"},
    {
        "event": "failure", "time": 2.0, "host": "h2", "phase": "engine", "task": "Start",
        "msg": "Job for containerd failed.\n[see] journalctl", "place": "roles/engine/tasks/service.yml:3",
    },
    {
        "event": "summary", "time": 75.0,
        "hosts": [
            {"name": "h1", "changed": 1, "failed": 0, "state": "changed"},
            {"name": "h2", "changed": 0, "failed": 1, "state": "failed"},
        ],
    },
]  # fmt: skip


def shown(events: list[dict], *, terminal: bool = False, **options) -> str:
    out = io.StringIO()
    with People(console=Console(file=out, width=100, force_terminal=terminal, highlight=False), **options) as show:
        for event in events:
            show(event)
    return out.getvalue()


def test_each_event_is_one_json_line_as_it_came_and_the_summary_is_last():
    out = io.StringIO()
    with JsonLines(out) as show:
        for event in EVENTS:
            show(event)
    lines = out.getvalue().splitlines()
    assert [json.loads(line) for line in lines] == EVENTS
    assert json.loads(lines[-1])["event"] == "summary"


def test_a_json_line_is_there_as_soon_as_the_event_is():
    class Slow(io.StringIO):
        flushed = 0

        def flush(self) -> None:
            self.flushed += 1

    out = Slow()
    JsonLines(out)(EVENTS[0])
    assert out.flushed == 1


def test_off_a_terminal_there_are_plain_lines_without_control_characters():
    text = shown(EVENTS)
    assert "\x1b" not in text and "\r" not in text
    assert "engine" in text and "/etc/containerd/config.toml" in text


def test_on_a_terminal_the_same_lines_have_colour():
    assert "\x1b[" in shown(EVENTS, terminal=True)


def test_the_failing_tasks_own_message_stands_at_the_end_with_host_and_step():
    text = shown(EVENTS)
    end = text[text.index("h2, engine: Start") :]
    assert "Job for containerd failed." in end and "[see] journalctl" in end
    assert "roles/engine/tasks/service.yml:3" in end
    assert text.count("Job for containerd failed.") == 1


def test_names_with_brackets_are_shown_as_they_are():
    text = shown(EVENTS)
    assert "Configure [the] engine" in text
    assert "disk is [small]" in text


def test_every_host_has_its_line_of_the_summary():
    lines = shown(EVENTS).splitlines()
    assert any("changed" in line and "h1" in line and "1 changed" in line for line in lines[-3:])
    assert any("failed" in line and "h2" in line for line in lines[-3:])
    assert "1m15s" in lines[-1]


def test_a_plan_says_would_and_to_change():
    text = shown(EVENTS, dry=True)
    assert "would" in text and "1 to change" in text
    assert "1 changed" not in text


@pytest.mark.parametrize("wanted", [True, False])
def test_what_changes_within_files_is_shown_only_when_asked_for(wanted):
    text = shown(EVENTS, show_diff=wanted)
    assert ("+a = 2" in text) is wanted
    assert ("-a = 1" in text) is wanted


def test_hosts_are_named_at_each_line_only_where_there_are_several():
    alone = [{**EVENTS[0], "hosts": ["h1"]}, EVENTS[3]]
    assert "h1: Configure" not in shown(alone)
    assert "h1: Configure" in shown(EVENTS)


def test_an_unreachable_host_is_named_with_the_reason():
    text = shown([EVENTS[0], {"event": "unreachable", "time": 1.0, "host": "h2", "msg": "no route [to] host"}])
    assert "unreachable" in text and "h2" in text and "no route [to] host" in text
