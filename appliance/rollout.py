"""A change of release over hosts: a canary first, then in batches, stopping where too many fail."""

import os
import time
from collections.abc import Callable, Iterator, Sequence

from appliance import reach
from appliance.durations import Durations
from appliance.errors import EXIT_FAILED, EXIT_OK, EXIT_ROLLED_BACK, EXIT_UNREACHABLE, UsageError
from appliance.events import HostOutcome
from appliance.inventory import Host, Inventory
from appliance.leases import Leases
from appliance.processes import describe
from appliance.run import run_playbook

PROGRAM = "/usr/lib/casemate/bin/casemate-release"
_REASON = 200  # characters


def batches(hosts: Sequence[Host], serial: str, canary: bool) -> Iterator[list[Host]]:
    """The hosts in the order of their turns; `serial` is a number or a percentage of all. Raises UsageError."""
    words = serial.removesuffix("%")
    if not words.isdigit() or int(words) < 1:
        raise UsageError(f"--serial {serial} is neither a number from 1 nor a percentage", cure="--serial 2 or 25%")
    size = max(1, len(hosts) * int(words) // 100) if serial.endswith("%") else int(words)
    rest = list(hosts)
    if canary and len(rest) > 1 and size > 1:
        yield [rest.pop(0)]
    for first in range(0, len(rest), size):
        yield rest[first : first + size]


def roll_out(
    inventory: Inventory, variables: dict, *, serial: str, canary: bool, max_fail: int, on_event: Callable[[dict], None]
) -> dict[str, str]:
    """Change each host's release; what became of each by name.

    `upgraded`, `ok` (it had it), `rolled back`, `refused` (nothing was changed), `unreachable` (it rolls itself back if
    it had begun), `failed` (could not be rolled back), `not reached`. Raises KeyboardInterrupt once hosts are back.
    """
    began = time.monotonic()
    states = dict.fromkeys((host.name for host in inventory.hosts), "not reached")
    counts: dict[str, HostOutcome] = {}
    run = describe(os.getpid(), "upgrade")["run"]
    turns = list(batches(inventory.hosts, serial, canary))
    on_event({"event": "start", "time": 0.0, "verb": "upgrade", "hosts": list(states)})
    log = ""
    try:
        for number, batch in enumerate(turns):
            if len(turns) > 1:
                names = ", ".join(host.name for host in batch)
                left = _left(turns[number:])
                on_event(_event(began, event="batch", number=number + 1, of=len(turns), hosts=names, **left))
            log = _turn(inventory, batch, variables | {"casemate_upgrade": run}, states, counts, began, on_event) or log
            bad = [name for name, state in states.items() if state not in ("upgraded", "ok", "not reached")]
            if len(bad) > max_fail:
                break
    finally:
        on_event(_event(began, event="summary", log=log, hosts=[
            counts.get(name, HostOutcome(name)).as_dict() | {"state": state} for name, state in states.items()
        ]))  # fmt: skip
    return states


def exit_code(states: dict[str, str]) -> int:
    """The command's exit code."""
    found = set(states.values())
    if "failed" in found or "refused" in found:
        return EXIT_FAILED
    if "rolled back" in found:
        return EXIT_ROLLED_BACK
    return EXIT_UNREACHABLE if "unreachable" in found else EXIT_OK if found <= {"upgraded", "ok"} else EXIT_FAILED


def _left(turns: list[list[Host]]) -> dict[str, int]:
    """How many seconds these turns take by earlier ones, those of unknown hosts as long as the others."""
    known = [Durations("upgrade", [host.name for host in batch]).left(0) for batch in turns]
    told = [seconds for seconds in known if seconds is not None]
    return {"left": round(sum(told) / len(told) * len(turns))} if told else {}


def _turn(
    inventory: Inventory, batch: list[Host], variables: dict, states: dict[str, str], counts: dict[str, HostOutcome],
    began: float, on_event: Callable[[dict], None],
) -> str:  # fmt: skip
    """One batch; the log of its run."""

    def pass_on(event: dict) -> None:
        if event["event"] not in ("start", "summary"):
            on_event(event | {"time": round(time.monotonic() - began, 2)})

    part = Inventory(tuple(batch), inventory.sources)
    with Leases(batch, variables["casemate_upgrade"]):
        try:
            outcome = run_playbook("deploy", part, verb="upgrade", on_event=pass_on, extra_vars=variables)
        except KeyboardInterrupt:
            for host in batch:
                states[host.name] = _after_failure(host, "interrupted", variables["casemate_upgrade"], pass_on)
            raise
        counts |= outcome.hosts
        for host in batch:
            came = outcome.hosts[host.name]
            if came.state in ("ok", "changed") and outcome.finished:
                states[host.name] = "upgraded" if came.changed else "ok"
            else:
                reason = outcome.problems.get(host.name, "the run ended before it was done")
                states[host.name] = _after_failure(host, reason, variables["casemate_upgrade"], pass_on)
    return outcome.log


def _after_failure(host: Host, reason: str, run: str, on_event: Callable[[dict], None]) -> str:
    """See to it that a host is as it was; what became of it."""
    (answer,) = reach.ask([host], PROGRAM, "rollback", "--run", run, "--reason", _in_short(reason))
    if answer.unreachable:
        return "unreachable"
    if answer.error and "is not there" not in answer.error:
        on_event({"event": "notice", "host": host.name, "phase": "rollback", "msg": answer.error})
        return "failed"
    told = answer.value or {"was_under_way": False, "last": {}}
    last = told["last"]
    by_itself = last.get("outcome") == "rolled back" and last.get("run") == run
    if not told["was_under_way"] and not by_itself:
        return "refused"
    message = f"rolled back to {last['from'] or 'what was there before'}: {last['reason']}"
    on_event({"event": "notice", "host": host.name, "phase": "rollback", "msg": message})
    return "rolled back"


def _in_short(problem: str) -> str:
    """The line that tells most of what went wrong: what our own program said where it did, else the first."""
    lines = problem.splitlines() or [problem]
    said = [line.partition("casemate-release: ")[2] for line in lines if "casemate-release: " in line]
    return (said or lines)[0][:_REASON]


def _event(began: float, **fields: object) -> dict:
    return {"time": round(time.monotonic() - began, 2), **fields}
