"""Bringing the running pods to what the manifest directory declares."""

import fcntl
import logging
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from appliance.node.edge.settings import edgecore_runs_pods

from . import objects, state, teardown, units, volumes
from .cri import Cri
from .cri_model import CriError
from .manifest import MANIFEST_DIRECTORY, ManifestError, Pod, load_directory
from .plan import is_current, plan
from .settings import Settings
from .translate import NAME_LABEL, managed_labels

log = logging.getLogger("casemate-pod")

LOCK = Path("/run/casemate/pods.lock")
_SETTLE_SECONDS = 1.0


@dataclass
class Outcome:
    """What a sync did: pods whose runner was (re)started, pods removed, manifests that could not be used."""

    started: set[str] = field(default_factory=set)
    removed: set[str] = field(default_factory=set)
    errors: list[ManifestError] = field(default_factory=list)


def sync(settings: Settings, directory: Path = MANIFEST_DIRECTORY) -> Outcome:
    """Start, restart and remove pods until the directory and what runs agree, and the directory stands still.

    Removal waits for grace periods, starting does not wait for it. Raises CriError, units.UnitError.
    """
    outcome = Outcome()
    with lock(), ThreadPoolExecutor(8) as pool:
        removals: dict[str, Future] = {}
        failed: dict[str, Exception] = {}
        done: dict[str, str] = {}  # hash by name: a runner that will not start is not restarted over and over
        while True:
            seen = _fingerprint(directory)
            for name in [name for name, removal in removals.items() if removal.done()]:
                if error := removals.pop(name).exception():
                    failed[name] = error
                else:
                    outcome.removed.add(name)
            declared, outcome.errors = load_directory(directory)
            if edgecore_runs_pods():
                declared, outcome.errors = {}, []
            todo = plan(declared, outcome.errors, state.read_all(), units.states(), _sandbox_names(settings))
            for name in todo.remove - removals.keys() - failed.keys():
                removals[name] = pool.submit(remove, name, settings)
            starting = {n for n in todo.start - removals.keys() if done.get(n) != declared[n].hash}
            units.restart(sorted(starting))
            if starting:
                done |= {name: declared[name].hash for name in starting}
                outcome.started |= starting
                _await_takeover(declared, starting)
            # systemd's path unit does not see changes made while this runs, so look again before leaving.
            if not removals and not starting and _fingerprint(directory) == seen:
                break
            time.sleep(_SETTLE_SECONDS if removals else 0)
    for name, error in failed.items():
        log.error("pod %s could not be removed", name)
        raise error
    return outcome


def remove(name: str, settings: Settings) -> None:
    """Stop a pod within its grace period and delete all of it. Raises CriError, units.UnitError."""
    log.info("removing pod %s", name)
    units.stop(name)
    cri = Cri(settings.socket)
    try:
        for sandbox in cri.sandboxes(managed_labels() | {NAME_LABEL: name}):
            teardown.remove_sandbox(cri, sandbox)
            teardown.remove_logs(sandbox)
    finally:
        cri.close()
    volumes.remove(name)
    state.forget(name)


def _sandbox_names(settings: Settings) -> set[str]:
    cri = Cri(settings.socket)
    try:
        return {sandbox.labels[NAME_LABEL] for sandbox in cri.sandboxes(managed_labels())}
    except CriError as error:
        # Pods can be declared while the engine is down; what is to be removed then is found by units and states.
        log.warning("%s", error)
        return set()
    finally:
        cri.close()


def _await_takeover(declared: dict[str, Pod], names: set[str], seconds: float = 10) -> None:
    """Wait until the runners just started have said which manifest they run, so that the next sync leaves them."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        states = state.read_all()
        if all(name in states and is_current(states[name], declared[name]) for name in names):
            return
        time.sleep(0.2)


def _fingerprint(directory: Path) -> list[tuple]:
    entries = []
    for place in (directory, *objects.DIRECTORIES):
        for path in sorted(place.iterdir()) if place.is_dir() else []:
            try:
                status = path.stat()
            except OSError:  # gone meanwhile, or a link that leads nowhere
                continue
            entries.append((str(path), status.st_ino, status.st_size, status.st_mtime_ns))
    return entries


@contextmanager
def lock():
    """Hold off other syncs and removals on this host."""
    LOCK.parent.mkdir(parents=True, exist_ok=True)
    with LOCK.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
