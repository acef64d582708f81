"""Whether a release of Casemate may be reached from another in one step, as appliance/releases.yml and the lock say."""

from __future__ import annotations

from collections.abc import Mapping


def problem(here: str, to: str, rules: Mapping) -> str:
    """Why not, with the way round; "" where it may.

    `rules` is {"min", "max", "denied": [{"release", "reason", "way"}]}. The same release is always allowed: it is
    another set of packages then.
    """
    if here == to:
        return ""
    for one in rules["denied"]:
        if one["release"] == here:
            return f"{to} cannot be reached from {here}: {one['reason']}; {one['way']}"
    if _order(here) < _order(rules["min"]):
        return f"{to} cannot be reached from {here} in one step: upgrade to {rules['min']} first, then to {to}"
    if _order(here) > _order(rules["max"]):
        return f"{to} cannot be reached from {here}, which is newer: appliance rollback goes back to a release before"
    return ""


def _order(release: str) -> list[int]:
    """Numbers to compare a release by; what is no number counts as 0."""
    return [int(part) if part.isdigit() else 0 for part in release.split(".")]
