"""How every part of a reset removes: through one object that keeps the list, and does nothing under --check."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from appliance.node.microvm import mounts


class ResetError(Exception):
    """Something could not be removed; the text names it and why."""


class Remover:
    """`removed` names, for a person, what was (under `check`: would be) removed; `kept` what stays, and why."""

    def __init__(self, check: bool) -> None:
        self.check = check
        self.removed: list[str] = []
        self.kept: list[str] = []

    def do(self, what: str, action: Callable[[], object]) -> None:
        """Remove one thing."""
        if not self.check:
            action()
        self.removed.append(what)

    def tree(self, path: Path) -> None:
        """Remove a file, link or directory with all in it, if it is there. What is mounted below is unmounted first."""
        if path.is_dir() and not path.is_symlink():
            self.do(f"{path}/", lambda: _remove_tree(path))
        elif path.is_symlink() or path.exists():
            self.do(str(path), path.unlink)

    def unit(self, name: str) -> None:
        """Stop a systemd unit, now and at boot, if systemd knows it."""
        if unit_known(name):
            self.do(f"unit {name}", lambda: run("systemctl", "disable", "--now", name))


def run(*argv: str, check: bool = True, env: dict[str, str] | None = None) -> str:
    """What a command prints. Raises ResetError with the command's own words where it fails and `check` is set."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env=env)
    if check and done.returncode != 0:
        raise ResetError(f"{' '.join(argv)}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def unit_known(name: str) -> bool:
    """Whether systemd has the unit loaded, or finds a file of it."""
    return run("systemctl", "show", "-P", "LoadState", name, check=False).strip() not in ("not-found", "")


def remove_if_empty(directory: Path) -> None:
    """Remove a directory that nothing is in and that no package brings."""
    if directory.is_dir() and not any(directory.iterdir()) and not run("dpkg-query", "-S", str(directory), check=False):
        with contextlib.suppress(OSError):
            directory.rmdir()


def _remove_tree(path: Path) -> None:
    mounts.unmount_below(path)
    shutil.rmtree(path)
