"""Bringing images into the engine, each once: from OCI archives, or from a registry by reference."""

import subprocess
from pathlib import Path

from .oci import images_in

NAMESPACE = "k8s.io"  # where CRI looks


class StoreError(Exception):
    """The engine did not take an image; the message holds its own words."""


def present() -> dict[str, str]:
    """The engine's images: digest by reference. Raises StoreError."""
    rows = [line.split() for line in _ctr("images", "ls").splitlines()[1:]]
    return {row[0]: row[2] for row in rows if len(row) > 2}


def import_archive(archive: Path, known: dict[str, str], dry_run: bool = False) -> list[str]:
    """Import an archive unless the engine has all its images; the references that were (or would be) new."""
    wanted = images_in(archive)
    new = [reference for reference, digest in wanted.items() if known.get(reference) != digest]
    if new and not dry_run:
        _ctr("images", "import", str(archive))
        there = present()
        if missing := [reference for reference in new if there.get(reference) != wanted[reference]]:
            raise StoreError(f"{archive}: imported, but the engine does not list {', '.join(missing)}")
    return new


def pull(reference: str, known: dict[str, str], dry_run: bool = False) -> list[str]:
    """Pull an image unless the engine has it; a list of the reference, or an empty one."""
    if reference in known:
        return []
    if not dry_run:
        _ctr("images", "pull", reference)
    return [reference]


def remove(reference: str) -> None:
    """Take an image from the engine. Raises StoreError."""
    _ctr("images", "rm", reference)


def _ctr(*arguments: str) -> str:
    done = subprocess.run(["ctr", "-n", NAMESPACE, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise StoreError(f"ctr {' '.join(arguments)}: {done.stderr.strip()}; is the engine running?")
    return done.stdout
