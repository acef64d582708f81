"""Driving ansible-core: one subprocess a run, our events from its callback, its own output in a log file."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from appliance.content import content
from appliance.durations import Durations
from appliance.errors import (
    EXIT_FAILED,
    EXIT_OK,
    EXIT_UNREACHABLE,
    CasemateError,
    UsageError,
)
from appliance.events import Outcome, Translator
from appliance.files import state_directory
from appliance.inventory import Inventory
from appliance.processes import describe, die_with_parent

KEPT_LOGS = 20
# of the user's own Ansible settings, those that say how to reach and unlock hosts; any other could change what we do
KEPT_SETTINGS = ("ANSIBLE_VAULT", "ANSIBLE_SSH", "ANSIBLE_PRIVATE_KEY", "ANSIBLE_REMOTE_USER", "ANSIBLE_HOST_KEY")


def run_playbook(
    playbook: str,
    inventory: Inventory,
    *,
    verb: str,
    on_event: Callable[[dict], None],
    check: bool = False,
    tags: str = "",
    extra_vars: dict | None = None,
) -> Outcome:
    """Run `playbooks/<playbook>.yml` on the inventory's hosts and pass each event (see events.py) to `on_event`.

    With `tags`, only the tasks that have one of them (comma-separated) run.
    Raises CasemateError when ansible-core ends before it has begun, with the last lines of its log.
    """
    names = [h.name for h in inventory.hosts]
    translator = Translator(verb, names, Durations(verb, names))
    log = _new_log(verb)
    on_event(translator.start())
    read_end, write_end = os.pipe()
    argv = [sys.executable, "-m", "ansible", "playbook", str(content() / "playbooks" / f"{playbook}.yml"), "--diff"]
    argv += [word for source in inventory.sources for word in ("-i", str(source))]
    argv += ["--limit", ",".join(h.name for h in inventory.hosts)]
    argv += ["--check"] if check else []
    argv += ["--tags", tags] if tags else []
    argv += ["--extra-vars", json.dumps(extra_vars)] if extra_vars else []
    with log.open("w") as output:
        process = subprocess.Popen(
            argv,
            env=_environment(verb, write_end),
            pass_fds=[write_end],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            # a run must not go on when we are killed: the next one would meet it on the hosts
            preexec_fn=die_with_parent,
        )
    os.close(write_end)
    # a polite end of ours is an interruption of the run: it may finish its tasks and let go of locks
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        _follow(read_end, translator, on_event)
        process.wait()
    except KeyboardInterrupt:
        translator.outcome.interrupted = True
        _end(process)
    except BaseException:  # nobody reads our events any more (`deploy -o json | head -1`)
        _end(process)
        raise
    outcome = translator.outcome
    if not outcome.finished and not outcome.interrupted and not any(h.seen for h in outcome.hosts.values()):
        raise CasemateError(
            f"ansible-core ended with {process.returncode} before it reached a host:\n{_tail(log)}", place=str(log)
        )
    outcome.log = str(log)
    on_event(translator.summary())
    if outcome.interrupted:
        raise KeyboardInterrupt
    return outcome


def exit_code(outcome: Outcome) -> int:
    """Our exit code of a run. Ansible's own is 0 when no host matched."""
    if not outcome.hosts:
        raise UsageError("the inventory has no host to work on")
    states = {h.state for h in outcome.hosts.values()}
    if "failed" in states or not outcome.finished or "not reached" in states - {"unreachable"}:
        return EXIT_FAILED
    return EXIT_UNREACHABLE if "unreachable" in states else EXIT_OK


def _follow(descriptor: int, translator: Translator, on_event: Callable[[dict], None]) -> None:
    with os.fdopen(descriptor) as events:
        for line in events:
            for event in translator.translate(json.loads(line)):
                on_event(event)


def _environment(verb: str, event_fd: int) -> dict[str, str]:
    own = {k: v for k, v in os.environ.items() if not k.startswith("ANSIBLE_") or k.startswith(KEPT_SETTINGS)}
    package_root = Path(__file__).resolve().parent.parent
    own["PYTHONPATH"] = os.pathsep.join(filter(None, [str(package_root), os.environ.get("PYTHONPATH")]))
    own["ANSIBLE_CONFIG"] = str(content() / "ansible.cfg")
    own["ANSIBLE_NOCOLOR"] = "1"
    own["ANSIBLE_DEPRECATION_WARNINGS"] = "0"
    own["CASEMATE_EVENT_FD"] = str(event_fd)
    own["CASEMATE_RUN"] = json.dumps(describe(os.getpid(), verb))
    # the venv's own programs first: an isolated install is not on PATH
    own["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return own


def _log_dir() -> Path:
    return state_directory() / "logs"


def _new_log(verb: str) -> Path:
    """A new log file that only its owner can read; older ones beyond the last twenty are removed."""
    directory = _log_dir()
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    for old in sorted(directory.glob("*.log"), key=lambda f: f.stat().st_mtime)[: -KEPT_LOGS + 1]:
        old.unlink(missing_ok=True)
    log = directory / f"{verb}-{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}.log"
    log.touch(mode=0o600)
    return log


def _tail(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return "\n".join(lines[-8:])


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _end(process: subprocess.Popen) -> None:
    """Ask the run's process group to end as Ctrl-C does; insist after ten seconds."""
    for number, patience in ((signal.SIGINT, 10), (signal.SIGKILL, 5)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)
            return
