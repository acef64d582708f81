"""The events of a run: what `plan`, `deploy` and the like show a person, and print as JSON lines.

Each has `event` and `time` (seconds since the start):

    start        verb, hosts
    phase        name (a role: preflight, base, storage ...), left? (seconds, by earlier runs: durations.py)
    task         phase, name
    change       host, phase, task, files?, removed?, msg?, diff?, impact?   under `plan`: what would change; `impact`
                 is what a lock's packages mean for what runs, see node/release/impact.py
    notice       host, phase, msg
    failure      host, phase, task, msg, place
    unreachable  host, msg
    batch        number, of, hosts, left?   of an upgrade that goes over hosts in turns; `left` is for all turns
    summary      hosts: [{name, changed, failed, state}], log (Ansible's own output); always the last

`changed` and `failed` count tasks; `state` is ok, changed, failed, unreachable or not reached; after an upgrade it is
as rollout.py says.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from appliance.durations import Durations


@dataclass
class HostOutcome:
    """How far one host came."""

    name: str
    changed: int = 0
    failed: int = 0
    unreachable: bool = False
    seen: bool = False

    @property
    def state(self) -> str:
        if self.unreachable:
            return "unreachable"
        if self.failed:
            return "failed"
        if not self.seen:
            return "not reached"
        return "changed" if self.changed else "ok"

    def as_dict(self) -> dict:
        return {"name": self.name, "changed": self.changed, "failed": self.failed, "state": self.state}


@dataclass
class Outcome:
    """What came of a run.

    `reports` holds, per host and task name, what unchanging commands printed; `problems`, per host, what went wrong.
    """

    hosts: dict[str, HostOutcome]
    finished: bool = False
    interrupted: bool = False
    reports: dict[str, dict[str, str]] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    log: str = ""

    def summary(self) -> dict:
        return {"event": "summary", "hosts": [h.as_dict() for h in self.hosts.values()], "log": self.log}


class Translator:
    """Turns the callback plugin's raw events into ours, and keeps the count of each host."""

    def __init__(self, verb: str, hosts: list[str], durations: Durations | None = None) -> None:
        self._durations = durations
        self.outcome = Outcome({name: HostOutcome(name) for name in hosts})
        self._verb = verb
        self._phase = ""
        self._tasks: dict[str, dict] = {}
        self._began = time.monotonic()

    def start(self) -> dict:
        return self._event("start", verb=self._verb, hosts=list(self.outcome.hosts))

    def summary(self) -> dict:
        well = all(host.state in ("ok", "changed") for host in self.outcome.hosts.values())
        if self._durations and self.outcome.finished and well:
            self._durations.note(time.monotonic() - self._began)
        return self._event(**self.outcome.summary())

    def translate(self, raw: dict) -> Iterator[dict]:
        """The events that one raw event means, none for most."""
        kind = raw["event"]
        if kind == "task":
            self._tasks[raw["id"]] = raw
            phase = raw["role"] or self._phase
            if phase and phase != self._phase:
                self._phase = phase
                elapsed = time.monotonic() - self._began
                left = self._durations.phase(phase, elapsed) if self._durations else None
                yield self._event("phase", name=phase, **({} if left is None else {"left": round(left)}))
            yield self._event("task", phase=phase, name=raw["name"])
        elif kind == "result":
            yield from self._result(raw)
        elif kind == "stats":
            self.outcome.finished = True

    def _result(self, raw: dict) -> Iterator[dict]:
        host = self.outcome.hosts.setdefault(raw["host"], HostOutcome(raw["host"]))
        task = self._tasks.get(raw["task"], {})
        what = {"host": host.name, "phase": task.get("role") or self._phase, "task": task.get("name", "")}
        status, message = raw["status"], _message(raw)
        host.seen = True
        if status == "ok" and raw.get("stdout"):
            self.outcome.reports.setdefault(host.name, {})[task.get("name", "")] = raw["stdout"]
        if status == "changed":
            host.changed += 1
            details = {"files": raw.get("changed_files")} | {k: raw.get(k) for k in ("removed", "msg", "diff")}
            if isinstance(details["msg"], dict):  # what a lock means for a host
                details |= {"msg": "\n".join(details["msg"]["words"]), "impact": details["msg"]["impact"]}
            yield self._event("change", **what, **{k: v for k, v in details.items() if v})
        elif status == "ok" and task.get("action", "").endswith("debug") and message:
            yield self._event("notice", host=host.name, phase=what["phase"], msg=message)
        elif status == "failed":
            host.failed += 1
            self.outcome.problems[host.name] = f"{task.get('name', '')}: {message}"
            yield self._event("failure", **what, msg=message, place=task.get("path", ""))
        elif status == "unreachable":
            host.unreachable = True
            self.outcome.problems[host.name] = message
            yield self._event("unreachable", host=host.name, msg=message)
        for kept in raw.get("kept", []):
            yield self._event("notice", host=host.name, phase=what["phase"], msg=f"stays: {kept}")

    def _event(self, event: str, **fields: object) -> dict:
        return {"event": event, "time": round(time.monotonic() - self._began, 2), **fields}


def _message(raw: dict) -> str:
    """The task's own words: its message and, where a command failed, what the command said."""
    parts = [str(raw.get("msg") or "").strip()]
    if raw["status"] == "failed" and raw.get("rc") not in (None, 0):
        parts += [str(raw.get(stream) or "").strip() for stream in ("stderr", "stdout")]
    return "\n".join(dict.fromkeys(part for part in parts if part))
