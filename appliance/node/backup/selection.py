"""Which pods and volumes a backup or a restore is about: filters as Kubernetes' and Velero's users know them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

_REQUIREMENT = re.compile(
    r"""\s*(?:
        (?P<key>[^\s,!=()]+)\s+(?P<set>in|notin)\s*\((?P<values>[^()]*)\)
      | (?P<name>[^\s,!=()]+)\s*(?P<sign>==|!=|=)\s*(?P<value>[^\s,()=!]*)
      | (?P<absent>!)?\s*(?P<present>[^\s,!=()]+)
    )\s*(?:,|$)""",
    re.VERBOSE,
)


class SelectionError(Exception):
    """A filter cannot be read, or names what is not there; the message says which."""


@dataclass(frozen=True)
class Filter:
    """What is asked for. Nothing at all means everything.

    `pods` and `volumes` are names, `selector` a label selector; a pod that is selected brings its volumes, ConfigMaps
    and Secrets. What is excluded is left out, whatever selected it.
    """

    pods: tuple[str, ...] = ()
    selector: str = ""
    volumes: tuple[str, ...] = ()
    exclude_pods: tuple[str, ...] = ()
    exclude_volumes: tuple[str, ...] = ()

    @property
    def is_everything(self) -> bool:
        """Whether the whole host is meant."""
        return self == Filter()


@dataclass(frozen=True)
class Pod:
    """What is known of a pod that may be selected: its labels, and the names of what it uses."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    volumes: tuple[str, ...] = ()
    configmaps: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()


class Selection(NamedTuple):
    """What was selected, by names in order; `host`: the host's own configuration and the edge core's as well."""

    pods: tuple[str, ...]
    volumes: tuple[str, ...]
    configmaps: tuple[str, ...]
    secrets: tuple[str, ...]
    host: bool


def select(pods: Iterable[Pod], volumes: Iterable[str], wanted: Filter) -> Selection:
    """Apply a filter to the pods and volumes that there are. Raises SelectionError."""
    known, there = {pod.name: pod for pod in pods}, set(volumes)
    _must_be("pod", (*wanted.pods, *wanted.exclude_pods), known)
    _must_be("volume", (*wanted.volumes, *wanted.exclude_volumes), there)
    some = bool(wanted.pods or wanted.selector or wanted.volumes)
    matches = matcher(wanted.selector)
    chosen = [
        pod for pod in known.values()
        if (not some or pod.name in wanted.pods or (wanted.selector and matches(pod.labels)))
        and pod.name not in wanted.exclude_pods
    ]  # fmt: skip
    if wanted.selector and not chosen and not wanted.volumes:
        raise SelectionError(f"no pod has the labels of {wanted.selector!r}")
    of_excluded = {name for pod in wanted.exclude_pods for name in known[pod].volumes}
    found = {name for pod in chosen for name in pod.volumes} & there
    found |= set(wanted.volumes) if some else there - of_excluded
    return Selection(
        pods=tuple(sorted(pod.name for pod in chosen)),
        volumes=tuple(sorted(found - set(wanted.exclude_volumes))),
        configmaps=tuple(sorted({name for pod in chosen for name in pod.configmaps})),
        secrets=tuple(sorted({name for pod in chosen for name in pod.secrets})),
        host=not some,
    )


def matcher(selector: str):
    """A function that tells whether labels fit `a=b,c!=d,e in (f,g),h notin (i),j,!k`. Raises SelectionError."""
    tests = []
    rest = selector.strip()
    while rest:
        found = _REQUIREMENT.match(rest)
        if not found:
            raise SelectionError(f"label selector {selector!r}: cannot be read from {rest!r} on")
        tests.append(_test(found))
        rest = rest[found.end() :]
    return lambda labels: all(test(labels) for test in tests)


def _test(found: re.Match):
    if found["set"]:
        key, values = found["key"], {value.strip() for value in found["values"].split(",")}
        if found["set"] == "in":
            return lambda labels: labels.get(key) in values
        return lambda labels: labels.get(key) not in values
    if found["name"]:
        name, value, wanted = found["name"], found["value"], found["sign"] != "!="
        return lambda labels: (labels.get(name) == value) == wanted
    key, wanted = found["present"], not found["absent"]
    return lambda labels: (key in labels) == wanted


def _must_be(kind: str, names: Iterable[str], known) -> None:
    if missing := [name for name in names if name not in known]:
        raise SelectionError(
            f"there is no {kind} {', '.join(missing)}; there are: {', '.join(sorted(known)) or 'none'}"
        )
