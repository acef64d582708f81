"""Bringing EdgeCore to what is declared, as one transaction: what does not work afterwards is put back.

What worked last is noted in applied.json; what differs from it, or from what is on the host, is done. Before the first
change the former binary, configuration, certificates and database are set aside; they come back when EdgeCore does not
run with the new ones. A first join that fails leaves nothing of EdgeCore's running, and no secret.

Within a change of the host's release what was set aside is kept by that (node/release/transaction.py), for as long as
the host can go back.
"""

import contextlib
import fcntl
import hashlib
import json
import shutil
import sqlite3
import subprocess
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from appliance.node.health import edgecore
from appliance.node.health.host import Host
from appliance.node.pods import settings as pod_settings
from appliance.node.pods.cri_model import CriError
from appliance.node.release import transaction
from appliance.node.reset import records

from . import artifact, config, settings
from .settings import Declared, EdgeError

_ASIDE = settings.STATE / "aside"
_CREATED = settings.STATE / "created"
_LOCK = settings.STATE / "lock"
# EdgeCore of a node that its cloud has not registered ends after 28 s; an unlucky start ends much sooner
_REGISTERED_SECONDS, _STEADY_SECONDS = 40, 10
_RETRIES = 1  # a busy cloud may let one attempt time out


@dataclass
class Applied:
    """What EdgeCore last worked with: release and digests of what it read, and what it is in the cloud."""

    release: str = ""
    version: str = ""
    config: str = ""
    unit: str = ""
    broker: str = ""
    cloud: str = ""
    node: str = ""
    static_pods: bool = False


def apply(declared: Declared, *, check: bool = False) -> list[str]:
    """Do what is left to do; returns it in words, an empty list for nothing. Raises EdgeError."""
    if check:
        return _needed(declared)
    settings.STATE.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _finish_cut_off()
        token = _token()
        needed = _needed(declared)
        try:
            if needed:
                _change(declared, token, needed)
        finally:
            settings.TOKEN.unlink(missing_ok=True)
    return needed


def _needed(declared: Declared) -> list[str]:
    before = _applied()
    document = config.render(declared, pod_settings.load())
    needed = []
    if _current() != declared.artifact.id or before.release != declared.artifact.id:
        needed.append(f"release {declared.version} ({declared.artifact.id})")
    if _joins(declared, before):
        needed.append(f"join {declared.cloud} as {declared.node_name}")
    if different := config.differences(document):
        needed.append(f"configuration: {', '.join(different)}")
    elif before.config != config.digest(document):
        needed.append("configuration that a run before did not finish")
    if before.unit != _digest(settings.UNIT_FILE):
        needed.append("its unit")
    wanted = _broker_digest(declared)
    if before.broker != wanted or (wanted and not _active(settings.BROKER_UNIT)):
        needed.append("the broker")
    unit = _show(settings.UNIT)
    if unit.get("ActiveState") not in ("active", "activating") or unit.get("UnitFileState") != "enabled":
        needed.append("start it, now and at boot")
    return needed


def _joins(declared: Declared, before: Applied) -> bool:
    """Whether certificates must be had: there are none, or they are another cloud's or another node's."""
    if not (settings.CERTIFICATE.exists() and settings.KEY.exists() and settings.CA.exists()):
        return True
    if before.node and before.node != declared.node_name:
        return True
    known = edgecore.ca_hash(settings.CA.read_text("utf-8"))
    return bool(declared.cloud_ca) and known != declared.cloud_ca


def _change(declared: Declared, token: str, needed: list[str]) -> None:
    before = _applied()
    release = settings.RELEASES / declared.artifact.id / "edgecore"
    if not release.exists():
        raise EdgeError(f"{release} is missing: casemate-edge fetch puts it there, and `appliance deploy` calls it")
    joins = _joins(declared, before)
    if joins and not token:
        raise EdgeError(
            f"this host has no certificate of the cloud at {declared.cloud}, and no token to get one with: "
            "set edge_token or edge_token_file (on the cloud's side: keadm gettoken) and deploy again"
        )
    _follow_broker(declared, before)
    if needed == ["the broker"]:
        _note(declared)
        return
    _set_aside()
    try:
        if before.static_pods and not declared.static_pods:
            from . import pods  # needs the packages that talk to the engine

            pods.remove(static_only=True)
            settings.RUNS_PODS.unlink(missing_ok=True)  # role pods has its runner start them
        _make_directories(declared)
        if joins:
            _forget_membership(before, declared)
        config.write(config.render(declared, pod_settings.load(), token if joins else ""))
        _point_to(declared.artifact.id)
        _systemctl("daemon-reload")
        if declared.static_pods:
            _hand_over_pods()
        _systemctl("reset-failed", settings.UNIT, check=False)
        _systemctl("enable", "--now", settings.UNIT)
        _await_well(declared, joins)
    except (EdgeError, CriError, OSError, subprocess.SubprocessError) as error:
        what = _put_back(_ASIDE)
        raise EdgeError(f"{error}\n{what}") from None
    config.forget_token()
    _note(declared)
    if transaction.current() is not None and not (transaction.PLACE / transaction.EDGE).exists():
        _ASIDE.rename(transaction.PLACE / transaction.EDGE)
    else:
        shutil.rmtree(_ASIDE)
    kept = {_was(place)["current"] for place in transaction.kept_edges()}
    artifact.forget_others({declared.artifact.id, *kept})


def _await_well(declared: Declared, joins: bool) -> None:
    """Return once EdgeCore works; raise EdgeError, with what it said last, when it will not.

    A host that joins works when it has its certificate and is registered; one that is a member when EdgeCore stays up,
    whether its cloud is there or not.
    """
    host = Host()
    steady = _REGISTERED_SECONDS if joins else _STEADY_SECONDS
    began = since = time.monotonic()
    retries = 0
    while retries <= _RETRIES and time.monotonic() - began < declared.ready_timeout:
        time.sleep(1)
        unit = _show(settings.UNIT)
        joined = not joins or (settings.CERTIFICATE.exists() and edgecore.connected(host, declared.cloud))
        if unit.get("ActiveState") != "active" or int(unit.get("NRestarts") or 0) > retries or not joined:
            since, retries = time.monotonic(), int(unit.get("NRestarts") or 0)
        elif time.monotonic() - since >= steady or (joins and _registered(declared.node_name)):
            return
    cause, cure = edgecore.explain(host, {"cloud": declared.cloud, "cloud_https": declared.cloud_https})
    raise EdgeError(f"EdgeCore does not work after {time.monotonic() - began:.0f} s: {cause}\ncure: {cure}")


def _registered(node: str) -> bool:
    """Whether EdgeCore has its node from the cloud: it keeps it in its database."""
    try:
        with contextlib.closing(sqlite3.connect(f"file:{settings.DATABASE}?mode=ro", uri=True, timeout=2)) as database:
            found = database.execute(
                "SELECT count(*) FROM meta WHERE type = 'node' AND (key = ? OR key LIKE ?)", (node, f"%/{node}")
            )
            return found.fetchone()[0] > 0
    except sqlite3.Error:
        return False  # not made yet, or of a release that keeps it elsewhere: then time tells


# What is put aside, and put back


def go_back(kept: Path, aside: Path) -> None:
    """Bring EdgeCore to what was set aside in `kept`, which stays; what is there now goes to `aside` first."""
    _set_aside(aside)
    undo(kept)


def undo(kept: Path) -> None:
    """Bring EdgeCore to what was set aside in `kept`. May be cut off, and be done again.

    Certificates are the node's, not the release's: those of the same node in the same cloud, which may be newer, stay.
    """
    before, now = Applied(**_was(kept)["applied"]), _applied()
    _put_back(kept, with_certificates=(before.cloud, before.node) != (now.cloud, now.node))


def _set_aside(aside: Path = _ASIDE) -> None:
    """Copy all that a failure has to restore. The database is copied while EdgeCore stands still."""
    shutil.rmtree(aside, ignore_errors=True)
    making = aside.with_suffix(".new")
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir(mode=0o700)
    was = {"current": _current(), "active": _active(settings.UNIT), "applied": asdict(_applied())}
    (making / "was.json").write_text(json.dumps(was))
    _systemctl("stop", settings.UNIT, check=False)
    if settings.ETC.is_dir():
        shutil.copytree(settings.ETC, making / "etc", symlinks=True, ignore=shutil.ignore_patterns("*.sock"))
    if settings.DATABASE.parent.is_dir():
        shutil.copytree(settings.DATABASE.parent, making / "database", ignore=shutil.ignore_patterns("*.sock"))
    making.rename(aside)


def _was(aside: Path) -> dict[str, Any]:
    return json.loads((aside / "was.json").read_text())


def _finish_cut_off() -> None:
    """A run that was cut off in its change left what it had put aside: undo it first."""
    if _ASIDE.is_dir():
        _put_back(_ASIDE)


def _put_back(aside: Path, with_certificates: bool = True) -> str:
    """Restore what was set aside; what that led to, in words."""
    was = _was(aside)
    before = Applied(**was["applied"])
    _systemctl("stop", settings.UNIT, check=False)
    _replace(
        aside / "etc", settings.ETC, set() if with_certificates else {settings.CA.parent, settings.CERTIFICATE.parent}
    )
    _replace(aside / "database", settings.DATABASE.parent, set())
    if was["current"]:
        _point_to(was["current"])
    else:
        (settings.RELEASES / "current").unlink(missing_ok=True)
    if not before.release:
        _systemctl("disable", settings.UNIT, check=False)
        _systemctl("reset-failed", settings.UNIT, check=False)
        said = "Nothing of EdgeCore's runs now; `appliance deploy` tries again, without downloading again."
    else:
        if was["active"]:
            _systemctl("start", "--no-block", settings.UNIT, check=False)
        said = f"EdgeCore {before.version} is back as it was, with its configuration, certificates and database."
    if settings.RUNS_PODS.exists() and not before.static_pods:
        settings.RUNS_PODS.unlink()
        _sync_pods()
    _store(before)
    if aside == _ASIDE:
        shutil.rmtree(aside)
    return said


def _replace(kept: Path, place: Path, stay: set[Path]) -> None:
    """Put a directory back as it was, or away where it was not; directories in `stay` are left as they are."""
    for there in place.iterdir() if place.is_dir() else ():
        if there not in stay:
            shutil.rmtree(there) if there.is_dir() and not there.is_symlink() else there.unlink()
    if not kept.is_dir():
        shutil.rmtree(place, ignore_errors=True)
        return
    left_out = shutil.ignore_patterns(*(path.name for path in stay if path.is_dir()))
    shutil.copytree(kept, place, symlinks=True, dirs_exist_ok=True, ignore=left_out)
    shutil.copystat(kept, place)


def _forget_membership(before: Applied, declared: Declared) -> None:
    """Remove certificates, and the database where it tells of another cloud or another node."""
    for directory in (settings.CA.parent, settings.CERTIFICATE.parent):
        for file in directory.iterdir():
            file.unlink()
    if before.node:
        shutil.rmtree(settings.DATABASE.parent)
        _make_directories(declared)


# The parts


def _token() -> str:
    try:
        return settings.TOKEN.read_text("utf-8").strip()
    except FileNotFoundError:
        return ""


def _make_directories(declared: Declared) -> None:
    """Make EdgeCore's directories, for root alone, noting which were not there: these are ours to remove."""
    wanted = [settings.ETC, settings.CONFIG.parent, settings.CA.parent, settings.CERTIFICATE.parent, settings.NO_PODS]
    wanted += [settings.DATABASE.parent, settings.KUBELET]
    for directory in wanted:
        if directory.is_dir():
            continue
        with _CREATED.open("a") as record:
            record.write(f"{directory}\n")
        directory.mkdir(parents=True, mode=0o750 if directory == settings.KUBELET else 0o700)


def _point_to(identity: str) -> None:
    new = settings.RELEASES / ".current.new"
    new.unlink(missing_ok=True)
    new.symlink_to(identity)
    new.replace(settings.RELEASES / "current")


def _current() -> str:
    link = settings.RELEASES / "current"
    return link.readlink().name if link.is_symlink() else ""


def _hand_over_pods() -> None:
    """The pod runner lets go of its pods: from now on the same manifests are EdgeCore's."""
    settings.RUNS_PODS.touch()
    _sync_pods()


def _sync_pods() -> None:
    done = subprocess.run(["/usr/lib/casemate/bin/casemate-pod", "sync"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise EdgeError(f"the pod runner does not follow: {done.stderr.strip()}")


def _broker_digest(declared: Declared) -> str:
    return _digest(settings.BROKER_FILE) if declared.broker == "mosquitto" else ""


def _follow_broker(declared: Declared, before: Applied) -> None:
    """Have mosquitto run with our listener; without one, have it run only where it did before us."""
    if declared.broker == "mosquitto":
        _systemctl("enable", settings.BROKER_UNIT)
        _systemctl("restart" if before.broker != _broker_digest(declared) else "start", settings.BROKER_UNIT)
    elif before.broker and "mosquitto" in records.packages_installed():
        _systemctl("disable", "--now", settings.BROKER_UNIT, check=False)
    elif before.broker:
        _systemctl("try-restart", settings.BROKER_UNIT, check=False)


def _note(declared: Declared) -> None:
    now = Applied(
        release=declared.artifact.id,
        version=declared.version,
        config=config.digest(config.render(declared, pod_settings.load())),
        unit=_digest(settings.UNIT_FILE),
        broker=_broker_digest(declared),
        cloud=declared.cloud,
        node=declared.node_name,
        static_pods=declared.static_pods,
    )
    _store(now)


def _store(applied: Applied) -> None:
    if not applied.release:
        settings.APPLIED.unlink(missing_ok=True)
        return
    new = settings.APPLIED.with_suffix(".new")
    new.write_text(json.dumps(asdict(applied)))
    new.replace(settings.APPLIED)


def _applied() -> Applied:
    try:
        return Applied(**json.loads(settings.APPLIED.read_text()))
    except FileNotFoundError:
        return Applied()


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.exists() else ""


def _active(unit: str) -> bool:
    return _show(unit).get("ActiveState") == "active"


def _show(unit: str) -> dict[str, Any]:
    shown = _systemctl("show", "--property=ActiveState,SubState,UnitFileState,NRestarts", unit)
    return dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)


def _systemctl(*words: str, check: bool = True) -> str:
    done = subprocess.run(["systemctl", *words], capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise EdgeError(f"systemctl {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout
