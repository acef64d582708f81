"""What deploy recorded on this host: files (casemate_files), packages (role base). Empty where there is no record."""

from __future__ import annotations

import os
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


def note_packages(present: list[str], coming: list[str]) -> None:
    """Record what is there before our first packages are, and those that are about to be installed because we ask."""
    STATE.mkdir(parents=True, exist_ok=True)
    if not (STATE / "packages-before").exists():
        _write("packages-before", sorted(present))
    _write("packages-installed", list(dict.fromkeys([*_lines("packages-installed"), *coming])))


def forget_files(paths: list[Path]) -> None:
    """Strike files from the record, with what was kept of them: they are put back, or gone."""
    gone = {str(path) for path in paths}
    _write("files", [line for line in _lines("files") if line not in gone])
    for path in paths:
        (ORIGINALS / path.relative_to("/")).unlink(missing_ok=True)


def forget_package(name: str) -> None:
    """Strike a package that was purged from the record of those that came with Casemate."""
    _write("packages-installed", [line for line in _lines("packages-installed") if line != name])


def _write(name: str, lines: list[str]) -> None:
    path = STATE / name
    new = path.with_name(f"{name}.new")
    with new.open("w") as file:
        file.write("".join(f"{line}\n" for line in lines))
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


def _lines(name: str) -> list[str]:
    path = STATE / name
    return list(dict.fromkeys(path.read_text().splitlines())) if path.exists() else []
