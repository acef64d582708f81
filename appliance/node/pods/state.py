"""What each pod's runner says about its pod: one JSON file a pod in /run/casemate/pods, gone after a reboot."""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

DIRECTORY = Path("/run/casemate/pods")
RELEASE = str(Path(__file__).resolve().parents[3])  # the release of the node programs that this process runs


@dataclass
class PodState:
    """One pod as its runner sees it.

    `state` is pending, running, succeeded or failed; `reason` says in words what it waits for or why it failed;
    `exit_codes` are those of each container's last end; `events` as in events.py.
    """

    name: str
    namespace: str
    manifest: str
    hash: str
    release: str = RELEASE
    pid: int = 0
    state: str = "pending"
    ready: bool = False
    reason: str = ""
    ip: str = ""
    sandbox_id: str = ""
    restarts: dict[str, int] = field(default_factory=dict)
    exit_codes: dict[str, int] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)

    @property
    def settled(self) -> bool:
        """Ready, or finished well: nothing more to wait for."""
        return self.ready or self.state == "succeeded"


def write(state: PodState, directory: Path = DIRECTORY) -> None:
    """Store a pod's state atomically. Raises OSError."""
    directory.mkdir(parents=True, exist_ok=True)
    temporary = directory / f".{state.name}.new"
    try:
        temporary.touch(0o600)  # the hash is drawn from Secrets, too
        temporary.write_text(json.dumps(asdict(state)))
        temporary.rename(directory / f"{state.name}.json")
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def is_there(name: str, directory: Path = DIRECTORY) -> bool:
    """Whether a pod's state is stored."""
    return (directory / f"{name}.json").exists()


def events_of(name: str, directory: Path = DIRECTORY) -> list[dict[str, Any]]:
    """The events that a pod's former runner has stored, of whichever release it was."""
    try:
        return list(json.loads((directory / f"{name}.json").read_text())["events"])
    except (OSError, ValueError, KeyError, TypeError):
        return []


def read_all(directory: Path = DIRECTORY) -> dict[str, PodState]:
    """Every stored state by pod name. A dead runner's is not ready, whatever it last said."""
    states = {}
    for path in sorted(directory.glob("[!.]*.json")):
        try:
            state = PodState(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError):
            continue  # being removed, or of another release: the runner writes it anew
        if not _is_runner(state.pid):
            state.ready, state.reason = False, state.reason or "its runner is not running"
        states[state.name] = state
    return states


def forget(name: str, directory: Path = DIRECTORY) -> None:
    """Delete a pod's state."""
    (directory / f"{name}.json").unlink(missing_ok=True)


def _is_runner(pid: int) -> bool:
    try:
        return pid == os.getpid() or b"casemate-pod" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
