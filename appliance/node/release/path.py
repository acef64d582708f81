"""Whether a release of Casemate may be reached from another in one step, and by which steps it may otherwise.

The table is appliance/releases.yml, which every lock carries: {release: {"min", "max", "denied": [{"release", "reason",
"way"}]}}.
"""

from __future__ import annotations

from collections.abc import Mapping


def problem(here: str, to: str, table: Mapping[str, Mapping]) -> str:
    """Why `to` cannot be reached from `here` in one step, with the way round; "" where it can.

    The same release is always allowed: it is another set of packages then.
    """
    if here == to or not (why := _forbidden(here, table[to])):
        return ""
    if way := steps(here, to, table):
        return f"{to} cannot be reached from {here} in one step: {why}; upgrade in these steps: {' -> '.join(way)}"
    return f"{to} cannot be reached from {here}: {why}"


def steps(here: str, to: str, table: Mapping[str, Mapping]) -> list[str]:
    """The fewest releases to go through from `here` to `to`, both of them included; empty where there is no way."""
    ways = [[here]]
    seen = {here}
    while ways:
        way = ways.pop(0)
        if way[-1] == to:
            return way
        for release in sorted(table, key=_order, reverse=True):
            if release not in seen and not _forbidden(way[-1], table[release]):
                seen.add(release)
                ways.append([*way, release])
    return []


def _forbidden(here: str, rules: Mapping) -> str:
    """Why rules do not let one come from `here`; "" where they do."""
    for one in rules["denied"]:
        if one["release"] == here:
            return f"{one['reason']} ({one['way']})"
    if _order(here) < _order(rules["min"]):
        return f"{rules['min']} is the oldest that it can be reached from"
    if _order(here) > _order(rules["max"]):
        return "what is here is newer; appliance rollback goes back to a release before"
    return ""


def _order(release: str) -> list[int]:
    """Numbers to compare a release by; what is no number counts as 0."""
    return [int(part) if part.isdigit() else 0 for part in release.split(".")]
