"""`appliance bench`: what it asks of the hosts, what it makes of their answers, and the picture."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from appliance import plot
from appliance.commands import bench
from appliance.errors import UsageError
from appliance.events import HostOutcome, Outcome

MACHINE = {"cpus": 2, "memory_mib": 4096, "kernel": "6.1"}


@pytest.fixture
def asked(monkeypatch):
    """Answers for two hosts, without hosts; the words that were asked."""
    words: list[str] = []

    def ask(what, hosts, playbook="look", verb=""):
        words.append(what)
        answer = {"handlers": ["microvm", "runc"], "machine": MACHINE}
        if what != "handlers":
            answer = {
                "runs": [{"total": 1.0, "sandbox": 0.5}, {"total": 3.0, "sandbox": 0.7}, {"total": 1.5, "sandbox": 0.6}]
            }
        outcome = Outcome({name: HostOutcome(name, seen=True) for name in ("a", "b")}, finished=True)
        return [{"name": name, **json.loads(json.dumps(answer))} for name in ("a", "b")], outcome

    monkeypatch.setattr(bench, "ask", ask)
    monkeypatch.setattr(bench, "load_inventory", lambda given, limit: None)
    return words


def run(*words: str):
    return CliRunner().invoke(bench.command, [*words])


def test_start_measures_every_handler_and_cold_guests_and_reports_medians(asked):
    done = run("start", "--yes", "--runs", "3", "-o", "json")
    found = json.loads(done.stdout)
    assert asked[1:] == [
        "start --handler microvm --runs 3", "start --handler runc --runs 3", "start --handler microvm --runs 3 --cold",
    ]  # fmt: skip
    assert [host["name"] for host in found["hosts"]] == ["a", "b"]
    assert found["hosts"][0]["results"]["runc"]["median"] == {"sandbox": 0.6, "total": 1.5}


def test_io_has_the_host_beside_the_handlers_and_a_handler_can_be_chosen(asked):
    run("io", "--yes", "--handler", "runc", "-o", "json")
    assert asked[1:] == ["io --handler host --runs 3", "io --handler runc --runs 3"]


def test_a_handler_that_is_not_there_is_refused_before_anything_is_measured(asked):
    done = run("net", "--yes", "--handler", "kata")
    assert isinstance(done.exception, UsageError) and "kata" in str(done.exception)
    assert asked == ["handlers"]


def test_without_a_terminal_it_must_be_told_to_go_on(asked):
    done = run("density")
    assert isinstance(done.exception, UsageError) and "--yes" in done.exception.cure
    assert asked == ["handlers"]


def test_people_get_median_and_spread(asked):
    assert "1.5  (1 to 3)" in run("start", "--yes").stdout


@pytest.mark.parametrize("name", ["picture.svg", "picture.png"])
def test_the_picture_shows_every_side_and_figure(asked, tmp_path, name):
    file = tmp_path / name
    assert run("start", "--yes", "--plot", str(file)).exit_code == 0
    data = file.read_bytes()
    if name.endswith(".svg"):
        for word in ("microvm, cold", "runc", "sandbox", "total", "seconds"):
            assert word in data.decode()
    else:
        assert data.startswith(b"\x89PNG")


def test_a_picture_that_cannot_be_drawn_is_refused_first(asked, tmp_path):
    for bad in (tmp_path / "x.jpeg", tmp_path / "missing/x.svg"):
        with pytest.raises(UsageError):
            plot.check(Path(bad))
    assert isinstance(run("start", "--yes", "--plot", str(tmp_path / "x.jpeg")).exception, UsageError)
    assert asked == []
