"""A change of release as a transaction: what was there is kept, and comes back unless the change is committed.

Everything is below `PLACE` until the transaction ends: `state.json` (see `Transaction`), `files.tar` (what Casemate
wrote on this host), `debs/` (the packages that are about to be replaced), `lease` (see guard.py) and
`casemate-node.pyz`, the programs that undo it, which nothing that is being changed is part of.

    begin     what is there is kept, the guard watches          phase "changing"
    commit    the guard goes; what was kept goes to the release that was left, from where `go_back` can fetch it
    rollback  packages, files, programs, guests as before       phase "rolling back", then no transaction

Each step can be cut off anywhere and be done again. What came of the last one is in `OUTCOME`.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType

from appliance.node.entry import LIB
from appliance.node.microvm import prepare
from appliance.node.microvm.image import CURRENT, IMAGES
from appliance.node.microvm.store import read_json, write_json
from appliance.node.reset import records

from . import packages, watch
from .locked import RELEASES

PLACE = records.STATE / "transaction"
OUTCOME = records.STATE / "last-release-change.json"
ARCHIVE = Path("/usr/lib/casemate-node.pyz")
KEPT_RELEASES = 3
UNLOCKED = "unlocked"  # the name of a release that was installed without a lock
EDGE = "edge"  # below PLACE, and below a release that was left: what of EdgeCore's was set aside (edge/apply.py)
GONE = "journalctl -u casemate-guard tells why"
KEPT_BESIDE = ("files", "originals", "packages-before", "packages-installed")


class TransactionError(Exception):
    """A step cannot be done; the message says why, and what holds now."""


@dataclass
class Transaction:
    """What is under way. `packages` are the versions before, by name, of what is to change; None where it was missing.

    `to` and `before` are locks' ids, `before` "" where the release was not locked; `boot` is the kernel's boot id.
    `programs` and `guest` are what the links of node programs and guest image led to. `pods` is as watch.pods gives it,
    `failing` the ids of the checks that failed already. `since` is seconds since the epoch, for people; `monotonic` the
    same moment by a clock that cannot be set. `run` names the run that began it (appliance/processes.py).
    """

    to: str
    before: str
    boot: str
    since: float
    monotonic: float
    run: str = ""
    phase: str = "changing"
    reason: str = ""
    packages: dict[str, str | None] = field(default_factory=dict)
    programs: str = ""
    guest: str = ""
    pods: dict[str, dict] = field(default_factory=dict)
    failing: list[str] = field(default_factory=list)


def current(place: Path = PLACE) -> Transaction | None:
    """The transaction that is under way, or None."""
    try:
        return Transaction(**json.loads((place / "state.json").read_text()))
    except FileNotFoundError:
        return None


def require(to: str) -> None:
    """See that the change to release `to` goes on; a run whose host went back meanwhile must not change it any more.

    Nothing is required where `to` is "". Raises TransactionError.
    """
    found = current()
    if to and (found is None or found.to != to or found.phase != "changing"):
        raise TransactionError(f"the change to release {to} was rolled back meanwhile: {GONE}")


def store(transaction: Transaction, place: Path = PLACE) -> None:
    """Note how far it is, so that a power cut leaves the note or the one before."""
    new = place / ".state.json"
    with new.open("w") as file:
        json.dump(asdict(transaction), file)
        file.flush()
        os.fsync(file.fileno())
    new.replace(place / "state.json")
    descriptor = os.open(place, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def begin(
    to: str,
    changes: dict[str, str | None],
    report: Callable[[str], None],
    may_change: Mapping[str, str] = MappingProxyType({}),
    failing: Collection[str] = (),
    run: str = "",
) -> Transaction:
    """Keep all that is about to change, and remember what is well. `changes`, `failing`, `run` as in `Transaction`.

    `may_change` are the host's own packages that apt changes only where a new one needs it; an old host's are no longer
    to be had, which is no reason to refuse.
    Nothing is changed but `PLACE`. Raises TransactionError, packages.PackageError.
    """
    if (other := current()) is not None:
        raise TransactionError(
            f"a change to {other.to or 'an unlocked release'} is under way since "
            f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(other.since))} ({other.phase}); it is rolled back by "
            "itself when its run is gone: journalctl -u casemate-guard"
        )
    shutil.rmtree(PLACE, ignore_errors=True)
    PLACE.mkdir(mode=0o700, parents=True)
    report("keeping the packages that are to be replaced")
    packages.keep({name: version for name, version in changes.items() if version}, PLACE / "debs")
    changes = changes | packages.keep_what_can_be(dict(may_change), PLACE / "debs")
    prepare.hold()
    report("keeping configuration")
    _keep_files(PLACE / "files.tar")
    made = Transaction(
        to=to, before=released().get("lock", ""), boot=watch.boot(), since=time.time(),
        monotonic=time.monotonic(), run=run, packages=changes,
        programs=str((LIB / "current").readlink()), guest=str(CURRENT.readlink()) if CURRENT.is_symlink() else "",
        pods=watch.pods(), failing=list(failing),
    )  # fmt: skip
    # run from its archive, as before the new programs are installed, or from what was installed of it
    own = Path(sys.argv[0])
    shutil.copyfile(own if zipfile.is_zipfile(own) else ARCHIVE, PLACE / "casemate-node.pyz")
    store(made)
    return made


def discard() -> None:
    """End a transaction in which nothing was changed yet."""
    _end()


def commit(transaction: Transaction) -> None:
    """The new release holds. What was kept is moved to the release that was left."""
    _leave(transaction)
    _note_outcome(transaction, "committed")
    _end()
    _forget_others()


def go_back(to: str, report: Callable[[str], None]) -> None:
    """Within a transaction: bring this host to a release that it has left. Raises TransactionError, PackageError."""
    versions, files = packages_of(to)
    left = kept_releases()[to]
    report("putting packages back")
    packages.put_back(versions, files)
    report("putting configuration back")
    _put_files_back(RELEASES / to / "files.tar")
    _link(LIB / "current", left["programs"])
    if left["guest"]:
        _link(CURRENT, left["guest"])
    # the first change since that release was left in which EdgeCore changed tells what it was in it
    if edges := [place for place in kept_edges() if not place.is_relative_to(PLACE) and _left(place) >= left["left"]]:
        from appliance.node.edge import apply  # few hosts have any of it

        report("putting EdgeCore back")
        apply.go_back(min(edges, key=_left), PLACE / EDGE)


def kept_edges() -> list[Path]:
    """Where EdgeCore's binary, configuration and database were set aside in changes that can be undone."""
    return [place for place in (PLACE / EDGE, *(RELEASES / name / EDGE for name in kept_releases())) if place.is_dir()]


def _left(place: Path) -> float:
    return _json(place.with_name("left.json"))["left"]


def packages_of(to: str) -> tuple[dict[str, str | None], dict[str, Path]]:
    """A kept release's packages that may be others now: versions (None: it had none) and files, by name.

    Each change since that release was left kept what it replaced: the first that replaced a package tells.
    Raises TransactionError where the release is not kept.
    """
    kept = kept_releases()
    if to not in kept:
        raise TransactionError(f"release {to or '(none)'} is not kept here; these are: {', '.join(kept) or 'none'}")
    versions: dict[str, str | None] = {}
    files: dict[str, Path] = {}
    for name, left in reversed(kept.items()):
        if left["left"] < kept[to]["left"]:
            continue
        for package, version in left["packages"].items():
            if package not in versions:
                versions[package] = version
                files[package] = RELEASES / name / "left" / f"{package}.deb"
    return versions, files


def kept_releases() -> dict[str, dict]:
    """The releases that this host has left and can go back to, by id, the last one left first.

    Each is {"packages": as in Transaction, "programs", "guest", "left": seconds since the epoch}.
    """
    found = {}
    for path in RELEASES.glob("*/left.json"):
        told = _json(path)
        if told and (LIB / told["programs"]).is_dir():
            found[path.parent.name] = told
    return dict(sorted(found.items(), key=lambda item: -item[1]["left"]))


def rollback(transaction: Transaction, reason: str, report: Callable[[str], None], restart: bool = True) -> None:
    """Bring everything back to what it was, and `restart` what runs otherwise. Raises what stopped it; do it again."""
    if transaction.phase != "rolling back":
        transaction.phase, transaction.reason = "rolling back", reason
        store(transaction)
    report("putting packages back")
    packages.put_back(transaction.packages, {name: PLACE / "debs" / f"{name}.deb" for name in transaction.packages})
    report("putting configuration back")
    _put_files_back(PLACE / "files.tar")
    _link(LIB / "current", transaction.programs)
    if transaction.guest:
        _link(CURRENT, transaction.guest)
    if (PLACE / EDGE).is_dir():
        from appliance.node.edge import apply

        report("putting EdgeCore back")
        apply.undo(PLACE / EDGE)
    if restart:
        report("restarting what changed")
        watch.restart_what_changed(transaction.monotonic)
        watch.follow_clock(transaction.since, transaction.monotonic)
    else:
        watch.reread_units()
    _note_outcome(transaction, "rolled back")
    _end()


def released() -> dict:
    """What release.json says is deployed; {} where it does not."""
    return _json(records.CONFIG / "release.json")


def outcome() -> dict:
    """How the last one ended: {"outcome", "from", "to", "reason", "run", "began", "ended"}; {} before the first."""
    return _json(OUTCOME)


def _json(path: Path) -> dict:
    return read_json(path) or {}


def _keep_files(archive: Path) -> None:
    """Everything that Casemate wrote, with the records of it; not the manifests that others put beside ours."""
    new = archive.with_suffix(".new")
    with tarfile.open(new, "w") as tar:
        for path in [*records.files(), *(records.STATE / name for name in KEPT_BESIDE)]:
            if path.exists() or path.is_symlink():
                tar.add(path)
    new.chmod(0o600)
    new.replace(archive)


def _put_files_back(archive: Path) -> None:
    """As they were: what has come since goes, unless it is what an admin or a pod's owner put there."""
    with tarfile.open(archive) as tar:
        tar.extraction_filter = lambda member, path: member  # we wrote it; Python 3.11.2 knows no filters yet
        kept = {Path("/", name) for name in tar.getnames()}
        for path in records.files():
            if path not in kept:
                path.unlink(missing_ok=True)
        for member in tar:
            path = Path("/", member.name)
            if member.isdir():
                path.mkdir(parents=True, exist_ok=True)
                os.chown(path, member.uid, member.gid)
                path.chmod(member.mode)
                continue
            new = path.with_name(f".{path.name}.casemate-back")
            path.parent.mkdir(parents=True, exist_ok=True)
            new.unlink(missing_ok=True)
            member.name = str(new.relative_to("/"))
            tar.extract(member, "/")
            new.replace(path)


def _link(link: Path, target: str) -> None:
    if link.is_symlink() and str(link.readlink()) == target:
        return
    new = link.with_name(f".{link.name}.casemate-back")
    new.unlink(missing_ok=True)
    new.symlink_to(target)
    new.replace(link)


def _note_outcome(transaction: Transaction, outcome: str) -> None:
    told = {"outcome": outcome, "from": transaction.before, "to": transaction.to, "reason": transaction.reason,
            "run": transaction.run, "began": transaction.since, "ended": time.time()}  # fmt: skip
    write_json(OUTCOME, told)


def _end() -> None:
    """From the first line on there is no transaction."""
    (PLACE / "state.json").unlink(missing_ok=True)
    shutil.rmtree(PLACE, ignore_errors=True)


def _leave(transaction: Transaction) -> None:
    """Move what was kept to the directory of the release that is left; `left.json`, which says so, last."""
    if not (PLACE / "files.tar").exists():  # done before, and cut off after it
        return
    place = RELEASES / (transaction.before or UNLOCKED)
    place.mkdir(parents=True, exist_ok=True)
    (place / "left.json").unlink(missing_ok=True)
    shutil.rmtree(place / "left", ignore_errors=True)
    shutil.rmtree(place / EDGE, ignore_errors=True)
    if (PLACE / EDGE).is_dir():
        (PLACE / EDGE).rename(place / EDGE)
    (PLACE / "debs").rename(place / "left")
    (place / "files.tar").unlink(missing_ok=True)
    (place / "files.tar").hardlink_to(PLACE / "files.tar")  # 0600 from its first byte: it has secrets
    told = {"packages": transaction.packages, "programs": transaction.programs, "guest": transaction.guest,
            "left": time.time()}  # fmt: skip
    write_json(place / "left.json", told)
    (PLACE / "files.tar").unlink()


def _forget_others() -> None:
    """All but the last few releases, and guest images that no release that is kept has. Running pods hold theirs."""
    here = released().get("lock", "")
    kept = [here, *[name for name in kept_releases() if name != here][: KEPT_RELEASES - 1]]
    for place in RELEASES.iterdir() if RELEASES.is_dir() else ():
        if place.is_dir() and place.name not in kept:
            shutil.rmtree(place)
    guests = {CURRENT.resolve().name, *(left["guest"] for left in kept_releases().values())}
    for image in IMAGES.iterdir() if IMAGES.is_dir() else ():
        if image.is_dir() and not image.is_symlink() and not image.name.startswith(".") and image.name not in guests:
            shutil.rmtree(image)
