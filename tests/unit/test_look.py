"""What hosts' programs answer, as it comes back through Ansible."""

from types import SimpleNamespace

import pytest

from appliance import look
from appliance.errors import CasemateError
from appliance.events import HostOutcome, Outcome


def ask(monkeypatch, text):
    outcome = Outcome({"h": HostOutcome("h")}, reports={"h": {"Ask the host": text}})
    monkeypatch.setattr(look, "run_playbook", lambda *_, **__: outcome)
    return look.ask("bench", SimpleNamespace(hosts=[SimpleNamespace(name="h")]))[0]


@pytest.mark.parametrize("before", ["", "microvm: 1.09 s (1 of 3)\r\nmicrovm: 1.10 s (2 of 3)\r\n"])
def test_an_answer_is_found_behind_what_was_told_on_the_way(monkeypatch, before):
    assert ask(monkeypatch, before + '{"runs": []}') == [{"name": "h", "runs": []}]


@pytest.mark.parametrize("text", ["", "no such program", "half {"])
def test_no_answer_is_an_error_that_shows_what_came_instead(monkeypatch, text):
    with pytest.raises(CasemateError, match="h: the program answered no JSON"):
        ask(monkeypatch, text)
