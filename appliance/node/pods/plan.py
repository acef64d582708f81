"""What a sync has to do: pure comparison, no engine and no systemd."""

from dataclasses import dataclass
from pathlib import Path

from . import state
from .manifest import ManifestError, Pod


@dataclass
class Plan:
    """What a sync has to do: runners to start or restart, pods to remove."""

    start: set[str]
    remove: set[str]


def plan(
    declared: dict[str, Pod],
    broken: list[ManifestError],
    states: dict[str, state.PodState],
    unit_states: dict[str, str],
    sandbox_names: set[str],
) -> Plan:
    """Compare what is declared with what is there.

    A pod whose manifest has become unreadable is left alone: a slip in an editor must not stop what runs.
    """
    start = set()
    for name, pod in declared.items():
        running = states.get(name)
        if unit_states.get(name) not in ("active", "activating") or not (running and is_current(running, pod)):
            start.add(name)
    unreadable = {error.source for error in broken}
    kept = {name for name, known in states.items() if known.manifest in unreadable}
    stems = {Path(source).stem for source in unreadable}
    there = set(states) | {name for name, active in unit_states.items() if active != "inactive"} | sandbox_names
    return Plan(start, {name for name in there if name not in declared and name not in kept and name not in stems})


def is_current(known: state.PodState, pod: Pod) -> bool:
    """Whether a runner has taken up this manifest and is of this release of the node programs."""
    return known.hash == pod.hash and known.release == state.RELEASE
