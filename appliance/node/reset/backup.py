"""Backups: the timer, and what is known of them on this host; the repository stays, wherever it is."""

from __future__ import annotations

from pathlib import Path

from appliance.node.reset import records
from appliance.node.reset.remover import Remover


def reset(remover: Remover, options: dict) -> None:
    """Stop the timer and remove what only this host's next backup would need."""
    remover.unit("casemate-backup.timer")
    remover.tree(records.STATE / "backup")
    remover.tree(Path("/var/cache/casemate-restic"))
