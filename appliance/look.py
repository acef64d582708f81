"""Asking the hosts' own programs, for `status`, `doctor` and `bench`."""

import json
from collections.abc import Callable

from appliance.errors import CasemateError
from appliance.events import Outcome
from appliance.inventory import Inventory
from appliance.run import run_playbook


def ask(
    what: str, inventory: Inventory, on_event: Callable[[dict], None] = lambda e: None,
    playbook: str = "look", verb: str = "", tags: str = "",
) -> tuple[list[dict], Outcome]:  # fmt: skip
    """Each host's answer to `what` ("status", "doctor" or words of bench), in the inventory's order, and the outcome.

    A host that could not be asked has {"name", "health": "unreachable" or "unknown", "error"} and no more.
    """
    problems: dict[str, str] = {}

    def note(event: dict) -> None:
        if event["event"] in ("failure", "unreachable"):
            problems[event["host"]] = event["msg"]
        on_event(event)

    outcome = run_playbook(
        playbook, inventory, verb=verb or what, on_event=note, tags=tags, extra_vars={f"casemate_{playbook}": what}
    )
    answers = []
    for host in inventory.hosts:
        text = outcome.reports.get(host.name, {}).get("Ask the host")
        if text is None:
            health = "unreachable" if outcome.hosts[host.name].unreachable else "unknown"
            answers.append({"name": host.name, "health": health, "error": problems.get(host.name, "")})
            continue
        try:
            # ssh gives a script a terminal, and so one stream of what it says on the way and of its answer
            answers.append({"name": host.name, **json.loads(text[text.index("{") :])})
        except ValueError:
            raise CasemateError(f"{host.name}: the program answered no JSON: {text[:200]}") from None
    return answers, outcome
