"""What has happened to a pod lately, as `kubectl describe` would show it: the last events, repeated ones counted.

An event is {"type": "Normal" or "Warning", "reason": one word, "message", "count", "first", "last"}, the times in
seconds since the epoch. Reasons are the kubelet's own where it has one for the case.
"""

from __future__ import annotations

import time
from typing import Any

NORMAL, WARNING = "Normal", "Warning"
_KEPT = 16


def add(events: list[dict[str, Any]], kind: str, reason: str, message: str) -> bool:
    """Add an event to `events`, oldest first; False where it is one of them again and only counts on."""
    now = time.time()
    for event in events:
        if (event["type"], event["reason"], event["message"]) == (kind, reason, message):
            event["count"] += 1
            event["last"] = now
            events.sort(key=lambda one: one is event)  # it is the newest now; the others keep their order
            return False
    events.append({"type": kind, "reason": reason, "message": message, "count": 1, "first": now, "last": now})
    del events[:-_KEPT]
    return True


def shown(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The events for others to read: times in ISO 8601 (UTC), and each one's age in seconds by this host's clock."""
    now = time.time()
    return [
        event
        | {key: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(event[key])) for key in ("first", "last")}
        | {"age_s": max(0, round(now - event["last"]))}
        for event in events
    ]
