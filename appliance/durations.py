"""How long a run may still take, by how long earlier runs on the same hosts took."""

import json
from pathlib import Path

from appliance.errors import CasemateError
from appliance.files import replace, state_directory

_RUNS = 8  # of one verb on one host
_HOSTS = 200


class Durations:
    """The phases of a run on some hosts, beside those of the runs before it.

    Of a host's earlier runs the one counts that had come to this phase after nearly the same time: one that changed
    nothing tells little of one that installs. Of several hosts the slowest counts.
    """

    def __init__(self, verb: str, hosts: list[str], path: Path | None = None) -> None:
        self._verb, self._hosts = verb, hosts
        self._path = path or state_directory() / "runs.json"
        self._earlier = self._read()
        self._marks: list[list] = []

    def phase(self, name: str, elapsed: float) -> float | None:
        """Note that a phase begins, `elapsed` seconds after the run did; the seconds left, None where none can tell."""
        self._marks.append([name, round(elapsed, 1)])
        return self.left(elapsed)

    def left(self, elapsed: float) -> float | None:
        """How many seconds are left, by the phases so far; None where no earlier run tells."""
        found = [self._left_on(host, elapsed) for host in self._hosts]
        known = [seconds for seconds in found if seconds is not None]
        return max(known) if known else None

    def note(self, total: float) -> None:
        """Remember this run, which came to its good end after `total` seconds."""
        everything = self._read()
        for host in self._hosts:
            runs = everything.pop(host, {})
            kept = runs.get(self._verb, [])[-_RUNS + 1 :]
            runs[self._verb] = [*kept, {"marks": self._marks, "total": round(total, 1)}]
            everything[host] = runs
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            replace(self._path, json.dumps(dict(list(everything.items())[-_HOSTS:])).encode())
        except (CasemateError, OSError):
            pass  # an estimate the less

    def _left_on(self, host: str, elapsed: float) -> float | None:
        count = len(self._marks)
        names = [name for name, _ in self._marks]
        alike = [
            run for run in self._earlier.get(host, {}).get(self._verb, [])
            if [name for name, _ in run["marks"][:count]] == names
        ]  # fmt: skip
        if not alike:
            return None
        # the later of two that are as near
        nearest = min(reversed(alike), key=lambda run: abs(run["marks"][count - 1][1] - elapsed) if count else 0)
        return max(nearest["total"] - (nearest["marks"][count - 1][1] if count else 0), 0)

    def _read(self) -> dict:
        try:
            found = json.loads(self._path.read_text())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}
