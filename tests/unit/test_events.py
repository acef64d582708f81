"""From the callback's raw events to ours, and from them to the state of each host."""

import pytest

from appliance.events import Translator
from appliance.run import exit_code


def translate(translator: Translator, *raw: dict) -> list[dict]:
    return [event for one in raw for event in translator.translate(one)]


def task(id: str, role: str = "engine", name: str = "Configure", action: str = "casemate_files") -> dict:
    return {"event": "task", "id": id, "role": role, "name": name, "action": action, "path": f"roles/{role}/x.yml:3"}


def result(id: str, status: str, host: str = "h1", **fields) -> dict:
    return {"event": "result", "task": id, "status": status, "host": host, **fields}


STATS = {"event": "stats", "hosts": {}}


def test_the_start_names_the_verb_and_every_host():
    event = Translator("deploy", ["h1", "h2"]).start()
    assert (event["event"], event["verb"], event["hosts"]) == ("start", "deploy", ["h1", "h2"])


def test_a_role_is_one_phase_however_many_tasks_it_has():
    events = translate(Translator("deploy", ["h1"]), task("1"), task("2"), task("3", role="pods"), task("4", role=""))
    assert [e["name"] for e in events if e["event"] == "phase"] == ["engine", "pods"]
    assert [e["phase"] for e in events if e["event"] == "task"] == ["engine", "engine", "pods", "pods"]


def test_a_change_says_what_where_and_which_files():
    translator = Translator("deploy", ["h1"])
    event = translate(translator, task("1"), result("1", "changed", changed_files=["/etc/x"], diff=[{"after": "a"}]))[
        -1
    ]
    assert event["event"] == "change"
    assert (event["host"], event["phase"], event["task"]) == ("h1", "engine", "Configure")
    assert event["files"] == ["/etc/x"]
    assert "msg" not in event


def test_a_message_that_changes_nothing_is_a_notice_and_other_results_are_silent():
    translator = Translator("deploy", ["h1"])
    shown = task("1", action="ansible.builtin.debug")
    events = translate(translator, shown, result("1", "ok", msg="mind the gap"), task("2"), result("2", "ok", msg="x"))
    assert [(e["event"], e["msg"]) for e in events if e["event"] == "notice"] == [("notice", "mind the gap")]
    assert [e["event"] for e in events if e["event"] not in ("task", "phase")] == ["notice"]


def test_a_failure_carries_the_commands_own_words_once_and_the_place_of_the_task():
    translator = Translator("deploy", ["h1"])
    raw = result("1", "failed", msg="non-zero return code", rc=1, stderr="no such disk", stdout="no such disk")
    event = translate(translator, task("1"), raw)[-1]
    assert event["event"] == "failure"
    assert event["msg"] == "non-zero return code\nno such disk"
    assert event["place"] == "roles/engine/x.yml:3"


def test_a_failure_that_the_play_ignores_is_no_failure():
    translator = Translator("deploy", ["h1"])
    events = translate(translator, task("1"), result("1", "ignored", msg="never mind"), STATS)
    assert "failure" not in [e["event"] for e in events]
    assert translator.outcome.hosts["h1"].state == "ok"


def test_what_an_unchanging_command_printed_is_kept_by_host_and_task():
    translator = Translator("status", ["h1"])
    translate(translator, task("1", name="Ask the host"), result("1", "ok", stdout='{"health": "ok"}'))
    assert translator.outcome.reports == {"h1": {"Ask the host": '{"health": "ok"}'}}


@pytest.mark.parametrize(
    ("statuses", "state"),
    [
        ([], "not reached"),
        (["ok", "skipped"], "ok"),
        (["ok", "changed"], "changed"),
        (["changed", "failed"], "failed"),
        (["changed", "unreachable"], "unreachable"),
    ],
)
def test_the_worst_that_happened_is_the_hosts_state(statuses, state):
    translator = Translator("deploy", ["h1"])
    translate(translator, task("1"), *[result("1", status) for status in statuses])
    assert translator.outcome.hosts["h1"].state == state


def test_the_summary_has_every_host_in_order_also_those_never_reached():
    translator = Translator("deploy", ["h2", "h1"])
    translate(translator, task("1"), result("1", "changed", "h1"), result("1", "changed", "h1"))
    assert translator.summary()["hosts"] == [
        {"name": "h2", "changed": 0, "failed": 0, "state": "not reached"},
        {"name": "h1", "changed": 2, "failed": 0, "state": "changed"},
    ]


@pytest.mark.parametrize(
    ("statuses", "finished", "code"),
    [
        ({"h1": "ok", "h2": "changed"}, True, 0),
        ({"h1": "ok", "h2": "failed"}, True, 1),
        ({"h1": "ok", "h2": "unreachable"}, True, 4),
        ({"h1": "failed", "h2": "unreachable"}, True, 1),
        ({"h1": "ok"}, True, 1),
        ({"h1": "ok", "h2": "ok"}, False, 1),
    ],
)
def test_the_exit_code_follows_from_the_hosts_not_from_ansible(statuses, finished, code):
    translator = Translator("deploy", ["h1", "h2"])
    translate(translator, task("1"), *[result("1", status, host) for host, status in statuses.items()])
    translate(translator, *[STATS] * finished)
    assert exit_code(translator.outcome) == code
