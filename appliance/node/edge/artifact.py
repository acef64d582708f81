"""Fetching a release of EdgeCore: into a staging place, checked there, and unpacked beside the one in use.

A download that was cut off goes on where it ended. Nothing that is in use changes here.
"""

import contextlib
import hashlib
import os
import shutil
import tarfile
import urllib.error
import urllib.request
from collections.abc import Collection
from pathlib import Path

from . import settings
from .settings import Artifact, EdgeError

_BLOCK = 1 << 20
_STALLED_SECONDS = 60
_ATTEMPTS = 3


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
    """Fetch what is missing of the archive; a server that cannot go on from there sends it all again."""
    if artifact.size:
        _room_for(artifact, archive)
    for _attempt in range(_ATTEMPTS):
        begin = archive.stat().st_size if archive.exists() else 0
        if artifact.size and begin == artifact.size:
            return
        request = urllib.request.Request(artifact.url, headers={"Range": f"bytes={begin}-"} if begin else {})  # noqa: S310 - the inventory says from where, the checksum what
        try:
            with urllib.request.urlopen(request, timeout=_STALLED_SECONDS) as answer:  # noqa: S310
                going_on = begin and getattr(answer, "status", 200) == 206
                announced = answer.headers.get("Content-Length")
                with archive.open("ab" if going_on else "wb") as target:
                    got = _copy(answer, target, artifact, begin if going_on else 0)
            if announced is None or got == int(announced):
                return
            trouble = f"the connection ended after {got} of {announced} bytes"
        except urllib.error.HTTPError as error:
            if error.code == 416 and begin:  # it is all there, or the server has another file
                return
            trouble = f"the server answered {error.code} {error.reason}"
            if error.code < 500:
                break
        except EdgeError:
            archive.unlink(missing_ok=True)
            raise
        except OSError as error:
            trouble = str(getattr(error, "reason", error))
    raise EdgeError(
        f"EdgeCore cannot be downloaded from {artifact.url}: {trouble}; nothing was installed. "
        "Make it reachable from this host, or set edge_url to where it is; the download goes on where it ended"
    )


def _room_for(artifact: Artifact, archive: Path) -> None:
    """The archive and, unpacked, a binary of about twice that."""
    free = shutil.disk_usage(archive.parent).free
    if free < 3 * artifact.size:
        raise EdgeError(
            f"{archive.parent} has {free >> 20} MiB left, EdgeCore's archive and binary need "
            f"{3 * artifact.size >> 20}: free some space on this host"
        )


def _copy(answer, target, artifact: Artifact, begin: int) -> int:
    """Copy a response's body; its length. Raises EdgeError as soon as it is longer than the artifact may be."""
    got = 0
    while block := answer.read(_BLOCK):
        got += len(block)
        if artifact.size and begin + got > artifact.size:
            raise EdgeError(
                f"{artifact.url} is longer than edge_size, {artifact.size} bytes: it is not the file that was pinned; "
                "nothing was installed. Correct edge_url, or edge_size with edge_checksum"
            )
        target.write(block)
    return got


def _verify(artifact: Artifact, archive: Path) -> None:
    """Compare size and checksum; what is wrong is deleted, so that the next attempt starts anew."""
    size = archive.stat().st_size
    algorithm, _, wanted = artifact.checksum.partition(":")
    with archive.open("rb") as file:
        found = hashlib.file_digest(file, algorithm).hexdigest()
    if found == wanted.lower():
        return
    archive.unlink()
    if artifact.size and size < artifact.size:
        what = f"is cut short: {size} of {artifact.size} bytes"
    else:
        what = f"has the {algorithm} checksum {found}, not {wanted}"
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
