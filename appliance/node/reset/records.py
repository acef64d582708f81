"""What deploy recorded on this host: files (casemate_files), packages (role base). Empty where there is no record."""

from __future__ import annotations

from pathlib import Path

STATE = Path("/var/lib/casemate")
CONFIG = Path("/etc/casemate")
RUN = Path("/run/casemate")
PROGRAMS = (Path("/usr/lib/casemate"), Path("/usr/lib/casemate-node.pyz"))
POOL = STATE / "pool"
ORIGINALS = STATE / "originals"


def anything() -> bool:
    """Whether a deploy ever wrote to this host, and no reset removed all of it."""
    left = [entry for entry in STATE.iterdir() if entry != POOL] if STATE.is_dir() else []
    return bool(left) or CONFIG.exists() or any(path.exists() for path in PROGRAMS)


def files() -> list[Path]:
    """The files that Casemate wrote."""
    return [Path(line) for line in _lines("files")]


def packages_installed() -> set[str]:
    """The packages that Casemate asked for because they were missing."""
    return set(_lines("packages-installed"))


def packages_before() -> set[str]:
    """The packages that were there before Casemate first installed any, less those it brought back."""
    return set(_lines("packages-before")) - packages_installed()


def _lines(name: str) -> list[str]:
    path = STATE / name
    return list(dict.fromkeys(path.read_text().splitlines())) if path.exists() else []
