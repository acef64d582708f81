"""Bringing the running pods to what the manifest directory declares."""

import fcntl
import logging
import os
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from appliance.node.edge import settings as edge

from . import objects, state, teardown, units, volumes
from .cri import Cri
from .cri_model import CriError
from .manifest import MANIFEST_DIRECTORY, ManifestError, Pod, load_directory
from .plan import plan
from .settings import Settings
from .translate import NAME_LABEL, managed_labels

log = logging.getLogger("casemate-pod")

LOCK = Path("/run/casemate/pods.lock")
# What was changed in the directory since this file was is news to casemate-pods-again.service, which follows each sync
# that the path unit had started: systemd does not see changes made while that runs.
SEEN = Path("/run/casemate/pods.seen")
_REMOVALS = 128  # at once: they only wait, and the last has no longer grace period than the first
_LOOK_SECONDS = 0.5
_TAKEOVER_SECONDS = 60


@dataclass
class Outcome:
    """What a sync did: pods whose runner was (re)started, pods removed, manifests that could not be used.

    `declared` are the pods that are to have a runner, by name.
    """

    declared: dict[str, Pod] = field(default_factory=dict)
    started: set[str] = field(default_factory=set)
    removed: set[str] = field(default_factory=set)
    errors: list[ManifestError] = field(default_factory=list)


def sync(settings: Settings, directory: Path = MANIFEST_DIRECTORY) -> Outcome:
    """Start, restart and remove pods until the directory and what runs agree, and the directory stands still.

    Removal waits for grace periods, starting does not wait for it. Raises CriError, units.UnitError.
    """
    outcome = Outcome()
    with lock(), ThreadPoolExecutor(_REMOVALS) as pool:
        removals: dict[str, Future] = {}
        failed: dict[str, Exception] = {}
        starting: dict[str, str] = {}  # hash by name: a runner that will not start is not restarted over and over
        until = 0.0  # when runners that have not taken up their manifest are no longer waited for
        known = None
        while True:
            begun, seen = time.time(), _fingerprint(directory)
            for name in [name for name, removal in removals.items() if removal.done()]:
                if error := removals.pop(name).exception():
                    failed[name] = error
                else:
                    outcome.removed.add(name)
            if seen != known:
                declared, outcome.errors = load_directory(directory)
                known = seen
            if edge.RUNS_PODS.exists():
                declared, outcome.errors = {}, []
            outcome.declared = declared
            states, unit_states = state.read_all(), units.states()
            todo = plan(declared, outcome.errors, states, unit_states, _sandbox_names(settings))
            for name in todo.remove - removals.keys() - failed.keys():
                removals[name] = pool.submit(remove, name, settings)
            new = {n for n in todo.start - removals.keys() if starting.get(n) != declared[n].hash}
            if new:
                units.restart(sorted(new))
                starting |= {name: declared[name].hash for name in new}
                outcome.started |= new
                until = time.monotonic() + _TAKEOVER_SECONDS
            # The next sync would restart a runner that has not yet said what it runs.
            coming = {n for n in todo.start & starting.keys() if n in new or unit_states.get(n) == "activating"}
            if not removals and not (coming and time.monotonic() < until) and _fingerprint(directory) == seen:
                break
            time.sleep(_LOOK_SECONDS)
        _note_seen(begun)
    for name, error in failed.items():
        log.error("pod %s could not be removed", name)
        raise error
    return outcome


def remove(name: str, settings: Settings) -> None:
    """Stop a pod within its grace period and delete all of it. Raises CriError, units.UnitError."""
    log.info("removing pod %s", name)
    units.stop(name)
    cri = Cri(settings.socket)
    for sandbox in cri.sandboxes(managed_labels(name)):
        teardown.remove_sandbox(cri, sandbox, with_logs=True)
    volumes.remove(name)
    state.forget(name)


def _sandbox_names(settings: Settings) -> set[str]:
    try:
        return {sandbox.labels[NAME_LABEL] for sandbox in Cri(settings.socket).sandboxes(managed_labels())}
    except CriError as error:
        # Pods can be declared while the engine is down; what is to be removed then is found by units and states.
        log.warning("%s", error)
        return set()


def _note_seen(moment: float) -> None:
    """Say that changes made before `moment` (seconds since the epoch) have been seen."""
    SEEN.touch()
    os.utime(SEEN, (moment, moment))


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
