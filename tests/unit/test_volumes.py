"""What `appliance volumes` shows of hosts' answers, and what it refuses."""

import json
import time

import pytest
from click.testing import CliRunner

from appliance.commands import volumes
from appliance.errors import UsageError
from appliance.inventory import Host
from appliance.reach import Answer

ORDERS = {"name": "orders", "size": 10 << 30, "used": 2 << 30, "pods": ["shop"], "schedule": "hourly",
          "snapshots": [{"name": "20261123T210003Z", "taken": 0.0, "manual": False}]}  # fmt: skip
PLAIN = {"name": "plain", "size": 0, "used": None, "pods": [], "schedule": "", "snapshots": []}


@pytest.fixture
def ask(monkeypatch):
    """Runs the verb on hosts that answer so."""

    class Inventory:
        hosts = (Host("edge1", {}, ()), Host("edge2", {}, ()))

    def run(answers: list[Answer], *words: str):
        monkeypatch.setattr(volumes, "load_inventory", lambda given, limit: Inventory)
        monkeypatch.setattr(volumes.reach, "ask", lambda hosts, *command, **options: answers)
        return CliRunner().invoke(volumes.command, list(words))

    return run


def test_each_volume_is_a_line_with_its_users_and_the_age_of_its_last_snapshot(ask):
    ORDERS["snapshots"][0]["taken"] = time.time() - 7300
    good = Answer(Host("edge1", {}, ()), {"pool": {"free_percent": 71.4}, "volumes": [ORDERS, PLAIN]})
    bad = Answer(Host("edge2", {}, ()), error="casemate-volumes: the pool x is not mounted")
    done = ask([good, bad])
    rows = [line.split() for line in done.output.splitlines()]
    assert ["orders", "10", "GiB", "2", "GiB", "shop", "1", "hourly", "2h", "ago"] in rows
    assert ["plain", "-", "-", "-", "0", "-", "-"] in rows
    assert "71% of the pool free" in done.output and "  the pool x is not mounted" in done.output
    assert done.exit_code == 1
    told = json.loads(ask([good, bad], "-o", "json").output)
    assert [host["name"] for host in told["hosts"]] == ["edge1", "edge2"] and "error" in told["hosts"][1]


def test_what_is_done_to_a_volume_is_done_on_one_host_that_is_named_behind_the_verb(ask):
    for words in (["snapshot", "orders"], ["--limit", "edge1", "snapshot", "orders"]):
        assert isinstance(ask([], *words).exception, UsageError)


def test_a_rollback_without_a_terminal_needs_yes(ask, monkeypatch):
    monkeypatch.setattr(volumes, "_one", lambda inventory, limit: Host("edge1", {}, ()))
    assert isinstance(ask([], "rollback", "orders").exception, UsageError)
    done = Answer(Host("edge1", {}, ()), {"to": "T", "replaced": "/p", "users": []})
    assert "orders is as of T; what it was is in /p" in ask([done], "rollback", "orders", "--yes").output
