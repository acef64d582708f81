"""A roll-out over several hosts: who comes when, and what it ends with."""

import os

import pytest

from appliance import rollout
from appliance.errors import UsageError
from appliance.events import HostOutcome, Outcome
from appliance.inventory import Host, Inventory
from appliance.processes import describe
from appliance.reach import Answer

HOSTS = [Host(name, {}, ()) for name in "abcdefgh"]


@pytest.mark.parametrize(
    ("serial", "canary", "turns"),
    [
        ("1", True, ["a", "b", "c", "d", "e", "f", "g", "h"]),
        ("3", True, ["a", "bcd", "efg", "h"]),
        ("3", False, ["abc", "def", "gh"]),
        ("25%", True, ["a", "bc", "de", "fg", "h"]),
        ("1%", False, ["a", "b", "c", "d", "e", "f", "g", "h"]),
        ("100%", True, ["a", "bcdefgh"]),
    ],
)
def test_turns(serial, canary, turns):
    assert ["".join(host.name for host in turn) for turn in rollout.batches(HOSTS, serial, canary)] == turns


@pytest.mark.parametrize("serial", ["0", "-1", "half", "0%", ""])
def test_a_serial_that_cannot_be_meant_is_refused(serial):
    with pytest.raises(UsageError, match="--serial"):
        list(rollout.batches(HOSTS, serial, True))


@pytest.fixture
def run(monkeypatch):
    """Roll out over three hosts, of which some fail; what was said, and the states."""

    class NoLeases:
        def __init__(self, hosts, run):
            pass

        __enter__ = __exit__ = lambda *_: None

    def go(sick: str, told: dict | str = "", **options):
        def playbook(name, inventory, *, on_event, **_):
            outcome = Outcome({host.name: HostOutcome(host.name, changed=1, seen=True) for host in inventory.hosts})
            outcome.finished = True
            for host in inventory.hosts:
                if host.name in sick:
                    outcome.hosts[host.name].failed = 1
                    outcome.problems[host.name] = "Gate: not well"
            return outcome

        def ask(hosts, *command):
            if isinstance(told, str):
                return [Answer(hosts[0], error=told, unreachable=told == "gone")]
            return [Answer(hosts[0], value=told)]

        monkeypatch.setattr(rollout, "Leases", NoLeases)
        monkeypatch.setattr(rollout, "run_playbook", playbook)
        monkeypatch.setattr(rollout.reach, "ask", ask)
        events: list[dict] = []
        chosen = {"serial": "1", "canary": True, "max_fail": 0} | options
        states = rollout.roll_out(Inventory(tuple(HOSTS[:3]), ()), {}, on_event=events.append, **chosen)
        return states, events

    return go


ROLLED_BACK = {"was_under_way": True, "last": {"outcome": "rolled back", "from": "x", "reason": "y",
                                                      "run": describe(os.getpid(), "")["run"]}}  # fmt: skip


def test_a_sick_canary_stops_it_and_the_others_are_not_touched(run):
    states, events = run("a", ROLLED_BACK)
    assert states == {"a": "rolled back", "b": "not reached", "c": "not reached"}
    assert rollout.exit_code(states) == 5
    assert events[-1]["event"] == "summary"
    assert [host["state"] for host in events[-1]["hosts"]] == ["rolled back", "not reached", "not reached"]


def test_max_fail_lets_it_go_on(run):
    states, _ = run("a", ROLLED_BACK, max_fail=1)
    assert states == {"a": "rolled back", "b": "upgraded", "c": "upgraded"}
    assert rollout.exit_code(states) == 5


@pytest.mark.parametrize(
    ("told", "state", "code"),
    [
        ({"was_under_way": False, "last": {}}, "refused", 1),
        ({"was_under_way": False, "last": ROLLED_BACK["last"]}, "rolled back", 5),
        ({"was_under_way": False, "last": ROLLED_BACK["last"] | {"run": "another"}}, "refused", 1),
        ("gone", "unreachable", 4),
        ("casemate-release is not there: `appliance deploy` installs it", "refused", 1),
        ("not rolled back within 900 s", "failed", 1),
    ],
)
def test_what_became_of_a_host_that_failed(run, told, state, code):
    states, _ = run("a", told)
    assert states["a"] == state
    assert rollout.exit_code(states) == code


def test_all_well(run):
    states, _ = run("")
    assert set(states.values()) == {"upgraded"}
    assert rollout.exit_code(states) == 0
