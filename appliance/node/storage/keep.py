"""Which snapshots are kept, and when the next one is due: pure arithmetic, in UTC."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

# What two moments of the same period have in common.
PERIODS: dict[str, Callable[[datetime], object]] = {
    "hourly": lambda when: (when.date(), when.hour),
    "daily": lambda when: when.date(),
    "weekly": lambda when: when.isocalendar()[:2],
    "monthly": lambda when: (when.year, when.month),
    "yearly": lambda when: when.year,
}


def kept(times: list[datetime], keep: dict[str, int]) -> set[datetime]:
    """Those of `times` that `keep` names: of each period the last one, for so many of the latest that have one.

    `last` counts snapshots themselves. The same rules as restic's.
    """
    newest_first = sorted(times, reverse=True)
    found = set(newest_first[: keep.get("last", 0)])
    for period, of in PERIODS.items():
        lasts: dict[object, datetime] = {}
        for when in newest_first:
            lasts.setdefault(of(when), when)
        found |= set(list(lasts.values())[: keep.get(period, 0)])
    return found


def is_due(times: list[datetime], schedule: str, now: datetime) -> bool:
    """Whether the period that `now` is in has no snapshot yet."""
    of = PERIODS[schedule]
    return all(of(when) != of(now) for when in times)
