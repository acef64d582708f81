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


def pull(reference: str, digest: str, known: dict[str, str], dry_run: bool = False) -> list[str]:
    """Pull an image unless the engine has it; a list of the reference, or an empty one.

    With a digest (sha256:HEX), that very image gets the name, whatever the registry has under it now.
    """
    if reference in known and digest in ("", known[reference]):
        return []
    if not dry_run and digest:
        pinned = f"{repository(reference)}@{digest}"
        _ctr("images", "pull", pinned)
        _ctr("images", "tag", "--force", pinned, reference)
    elif not dry_run:
        _ctr("images", "pull", reference)
    return [reference]


def repository(reference: str) -> str:
    """A reference without its tag and digest."""
    name = reference.partition("@")[0]
    return name.rpartition(":")[0] if ":" in name.rpartition("/")[2] else name


def remove(reference: str) -> None:
    """Take an image from the engine. Raises StoreError."""
    _ctr("images", "rm", reference)


def _ctr(*arguments: str) -> str:
    done = subprocess.run(["ctr", "-n", NAMESPACE, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise StoreError(f"ctr {' '.join(arguments)}: {done.stderr.strip()}; is the engine running?")
    return done.stdout
