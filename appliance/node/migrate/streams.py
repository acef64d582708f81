"""Volumes and images as streams, out of one program and into another; none is taken for whole that is not."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
import time
from pathlib import Path

from appliance.node.backup import pool

from . import wire
from .session import MigrationError, Session

LEAVING, ARRIVING = ".leaving", ".arriving"  # below the pool: snapshots that are sent, and what was received of them
_TAR = ["tar", "--xattrs", "--xattrs-include=*", "--acls", "--numeric-owner", "--sparse"]
_CTR = ["ctr", "--namespace", "k8s.io", "images"]


def freeze(volumes: list[str], number: int) -> None:
    """Take the read-only snapshots of round `number`, one of each volume. Raises BackupError."""
    for name in volumes:
        place = pool.POOL / LEAVING / name
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        pool.freeze(pool.POOL / "volumes" / name, place / str(number))


def send_snapshot(session: Session, name: str, number: int) -> int:
    """Send what a volume's round holds that the round before did not; the number of bytes. Raises MigrationError."""
    place = pool.POOL / LEAVING / name
    parent = ["-p", str(place / str(number - 1))] if number else []
    sent = _send(session, ["btrfs", "send", "--quiet", *parent, str(place / str(number))])
    if number:
        pool.drop(place / str(number - 1))
    return sent


def receive_snapshot(session: Session, name: str, number: int) -> int:
    """The other end of `send_snapshot`."""
    place = pool.POOL / ARRIVING / name
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    received = _receive(session, ["btrfs", "receive", "--quiet", "-e", str(place)])
    if number:
        pool.drop(place / str(number - 1))
    return received


def unfold(name: str, size: int) -> None:
    """Make a volume, not yet in its place, of what was received last of it, with its quota of `size` bytes."""
    last = max((pool.POOL / ARRIVING / name).iterdir(), key=lambda path: int(path.name))
    place = prepared(name)
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    run("btrfs", "subvolume", "snapshot", str(last), str(place))
    if size:
        run("btrfs", "quota", "enable", str(pool.POOL))
        run("btrfs", "qgroup", "limit", str(size), str(place))


def prepared(name: str) -> Path:
    """Where a volume lies that is not yet in its place, as `pool.prepare` makes it."""
    return pool.POOL / pool.RESTORING / "volumes" / name


def send_tree(session: Session, name: str) -> int:
    """Send a volume's files, which nobody may write to meanwhile."""
    tree = pool.POOL / "volumes" / name
    return _send(session, [*_TAR, "--create", "--one-file-system", "--directory", str(tree), "."])


def receive_tree(session: Session, name: str, size: int) -> int:
    """The other end of `send_tree`: makes the volume, not yet in its place. Raises BackupError, too."""
    place = pool.prepare(name, size)
    return _receive(session, [*_TAR, "--extract", "--preserve-permissions", "--directory", str(place)])


def send_image(session: Session, reference: str) -> int:
    """Send an image by the name that the engine's store has for it."""
    return _send(session, [*_CTR, "export", "-", reference])


def receive_image(session: Session) -> int:
    return _receive(session, [*_CTR, "import", "-"])


def put_away(place: Path) -> Path:
    """Move a volume out of its place to where it is kept; its new path."""
    away = kept_place(place.name)
    place.rename(away)
    return away


def kept_place(name: str) -> Path:
    """Where something of this name is kept from now on."""
    away = pool.POOL / pool.REPLACED / f"{name}-{time.strftime('%Y%m%dT%H%M%S')}"
    away.parent.mkdir(mode=0o700, exist_ok=True)
    return away


def drop(directory: str) -> None:
    """Remove the snapshots of a migration, at either end."""
    place = pool.POOL / directory
    for volume in place.iterdir() if place.is_dir() else ():
        for snapshot in volume.iterdir():
            pool.drop(snapshot)
        volume.rmdir()
    with contextlib.suppress(FileNotFoundError):
        place.rmdir()


def tidy() -> None:
    """Remove the directories for volumes that are not in their places, where none is left in them."""
    place = prepared("")
    with contextlib.suppress(OSError):
        place.rmdir()
        place.parent.rmdir()


def run(*command: str) -> None:
    """Run a program. Raises MigrationError with its words."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise MigrationError(f"{' '.join(command)}: {done.stderr.strip()}")


def _send(session: Session, argv: list[str]) -> int:
    sent = 0
    with tempfile.TemporaryFile() as said, subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=said) as source:
        while chunk := source.stdout.read(wire.CHUNK):
            session.send(chunk)
            sent += len(chunk)
        if source.wait():
            raise MigrationError(_failed(argv, said))
    session.end()
    return sent


def _receive(session: Session, argv: list[str]) -> int:
    received = 0
    with (
        tempfile.TemporaryFile() as said,
        subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=said) as target,
    ):
        try:
            for chunk in session.data():
                target.stdin.write(chunk)
                received += len(chunk)
            target.stdin.close()
        except BrokenPipeError:
            target.wait()
            raise MigrationError(_failed(argv, said)) from None
        except MigrationError:
            target.kill()  # else it would take what it has for the whole
            raise
        if target.wait():
            raise MigrationError(_failed(argv, said))
    return received


def _failed(argv: list[str], said) -> str:
    said.seek(0)
    words = said.read().decode(errors="replace").strip()
    return f"{' '.join(argv)}: {words[-500:] or 'ended without a word'}"
