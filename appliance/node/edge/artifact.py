"""Fetching a release of EdgeCore: into a staging place, checked there, and unpacked beside the one in use.

A download that was cut off goes on where it ended. Nothing that is in use changes here.
"""

import contextlib
import os
import shutil
import tarfile
from collections.abc import Collection
from pathlib import Path

from appliance.node import fetch as get

from . import settings
from .settings import Artifact, EdgeError

_BLOCK = 1 << 20


def fetch(artifact: Artifact, releases: Path = settings.RELEASES, staging: Path = settings.STATE / "staging") -> bool:
    """Have `releases`/ID/edgecore; False where it was there. Raises EdgeError, with nothing but the staging changed."""
    release = releases / artifact.id
    if release.is_dir():
        return False
    staging.mkdir(parents=True, exist_ok=True, mode=0o700)
    for other in staging.iterdir():
        if not other.name.startswith(artifact.id):
            other.unlink()
    archive = staging / f"{artifact.id}.part"
    _download(artifact, archive)
    _verify(artifact, archive)
    making = releases / f".{artifact.id}.{os.getpid()}"
    try:
        making.mkdir(parents=True)
        _extract(artifact, archive, making / "edgecore")
        making.rename(release)
    finally:
        shutil.rmtree(making, ignore_errors=True)
    shutil.rmtree(staging)
    return True


def _download(artifact: Artifact, archive: Path) -> None:
    """Fetch what is missing of the archive."""
    if artifact.size:
        _room_for(artifact, archive)
    try:
        get.fetch(artifact.url, archive, artifact.size)
    except get.TooLong:
        raise EdgeError(
            f"{artifact.url} is longer than edge_size, {artifact.size} bytes: it is not the file that was pinned; "
            "nothing was installed. Correct edge_url, or edge_size with edge_checksum"
        ) from None
    except get.FetchError as error:
        raise EdgeError(
            f"EdgeCore cannot be downloaded from {artifact.url}: {error}; nothing was installed. "
            "Make it reachable from this host, or set edge_url to where it is; the download goes on where it ended"
        ) from None


def _room_for(artifact: Artifact, archive: Path) -> None:
    """The archive and, unpacked, a binary of about twice that."""
    free = shutil.disk_usage(archive.parent).free
    if free < 3 * artifact.size:
        raise EdgeError(
            f"{archive.parent} has {free >> 20} MiB left, EdgeCore's archive and binary need "
            f"{3 * artifact.size >> 20}: free some space on this host"
        )


def _verify(artifact: Artifact, archive: Path) -> None:
    """Compare the checksum; what is wrong is deleted, so that the next attempt starts anew."""
    if what := get.wrong(archive, artifact.checksum, artifact.size):
        raise EdgeError(
            f"{artifact.url} {what}; nothing was installed. Compare edge_checksum with the checksum file that "
            "the release has beside the archive: one of the two is not what was released"
        )


def _extract(artifact: Artifact, archive: Path, target: Path) -> None:
    """Unpack the one wanted member, and nothing else, to `target`, executable by root alone."""
    try:
        with tarfile.open(archive, "r:*") as tar:
            member = tar.getmember(artifact.member)
            source = tar.extractfile(member) if member.isreg() else None
            if source is None:
                raise EdgeError(f"{artifact.url}: {artifact.member} is no regular file; nothing was installed")
            with source, target.open("wb") as file:
                shutil.copyfileobj(source, file, _BLOCK)
                file.flush()
                os.fsync(file.fileno())
    except (tarfile.TarError, KeyError, EOFError) as error:
        raise EdgeError(
            f"{artifact.url} holds no {artifact.member} ({error}); nothing was installed. "
            "edge_version names the directory in the archive: is it this archive's?"
        ) from None
    target.chmod(0o700)


def forget_others(keep: Collection[str], releases: Path = settings.RELEASES) -> None:
    """Remove every unpacked release but those in `keep`."""
    for other in releases.iterdir():
        if other.name not in (*keep, "current"):
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(other)
