"""What role `backup` declares in /etc/casemate/backup.json, and where everything of backups lies."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from pathlib import Path

DECLARED = Path("/etc/casemate/backup.json")
PASSWORD = Path("/etc/casemate/backup.password")  # root's alone
ENVIRONMENT = Path("/etc/casemate/backup.env")  # NAME=value lines for restic: credentials of its back end; root's alone
STATE = Path("/var/lib/casemate/backup")
KEY = Path("/etc/casemate/backup.key")  # to log in with by sftp; root's alone
# In memory, for it holds secrets; always the same path, by which restic finds what it saved before.
STAGE = Path("/run/casemate/backup")
STATUS = STATE / "status.json"
MADE = STATE / "made.json"  # sizes and times of this host's backups by id, which the repository does not tell
CACHE = Path("/var/cache/casemate-restic")


class BackupError(Exception):
    """Something that an admin can cure; the text names cause, place and cure."""


@dataclass(frozen=True)
class Settings:
    """See the variables of role backup.

    `keep` is by restic's words (last, daily ...), `max_age_hours` for doctor, `schedule` as systemd has it, "" for no
    timer, `images` whether their content is saved. `ca` is the path of the certificate of
    the authority that the server's is signed by, "" for the distribution's own ones.
    """

    repository: str
    host: str
    keep: dict[str, int] = field(default_factory=dict)
    exclude: list[str] = field(default_factory=list)
    max_age_hours: int = 26
    options: list[str] = field(default_factory=list)
    schedule: str = ""
    images: bool = False
    ca: str = ""


def load(path: Path = DECLARED) -> Settings:
    """The settings of this host. Raises BackupError where it has none."""
    try:
        given = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise BackupError(
            "this host has no backups: set backup_repository in the inventory, then appliance deploy"
        ) from None
    return Settings(**{one.name: given[one.name] for one in fields(Settings) if one.name in given})


def environment(path: Path | None = None) -> dict[str, str]:
    """The back end's credentials, as restic reads them from its environment; {} where it needs none."""
    try:
        lines = (path or ENVIRONMENT).read_text("utf-8").splitlines()
    except FileNotFoundError:
        return {}
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
