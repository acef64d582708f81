"""Installing what a lock says, and nothing else.

Every package file is fetched and compared with the lock before any is installed. apt then sees one source, made of
these files, so that it can choose nothing that the lock does not have.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from appliance.node.reset import records

from .locked import LockError, Package, Release, installed, look

_HELPER = "/usr/lib/apt/apt-helper"
_ROOM = 5  # times its archives: what packages take once they are unpacked, beside the archives
_NO_SERVICES = "#!/bin/sh\n# Casemate: while it installs packages\nexit 101\n"
_LOCK_SECONDS = 120  # for another package manager to end
_POLICY = Path("/usr/sbin/policy-rc.d")


def wanted(release: Release, different: dict[str, dict]) -> list[Package]:
    """The packages whose files are needed: what differs here, as `locked.look` says, and what guests are made of."""
    names = set(release.guest) | set(release.kernel) | {name for group in different.values() for name in group}
    return [release.packages[name] for name in sorted(names)]


def take(release: Release) -> None:
    """Unpack the package files that came from a bundle; what is no file that the lock names is left out."""
    archive = release.directory.with_suffix(".tar")
    if not archive.exists():
        return
    release.debs.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive) as tar:
        for member in tar:
            package = release.packages.get(member.name)
            source = tar.extractfile(member) if member.isreg() else None
            if package and source:
                new = release.debs / f".{package.file}"
                with source, new.open("wb") as target:
                    shutil.copyfileobj(source, target)
                new.replace(release.debs / package.file)
    archive.unlink()


def fetch(packages: Iterable[Package], debs: Path, report: Callable[[str], None] = lambda text: None) -> None:
    """Have each package's file in `debs`, as the lock says. Raises LockError naming all that cannot be had."""
    debs.mkdir(parents=True, exist_ok=True)
    missing = [one for one in packages if not is_right(debs / one.file, one) and not _is_linked(one, debs)]
    if not missing:
        return
    size = sum(package.size for package in missing)
    _room_for(size, debs)
    report(f"fetching {len(missing)} packages, {size >> 20} MiB")
    words = [word for one in missing for word in (one.url, str(debs / f".{one.file}"), f"SHA256:{one.sha256}")]
    done = subprocess.run([_HELPER, "-o", "APT::Sandbox::User=root", "download-file", *words],
                          capture_output=True, text=True, check=False, env=_environment())  # fmt: skip
    lacking = []
    for one in missing:
        new = debs / f".{one.file}"
        if is_right(new, one):
            if new.is_symlink():  # apt's way with a source that is a directory of this host
                found = new.resolve()
                new.unlink()
                shutil.copyfile(found, new)
            new.replace(debs / one.file)
        else:
            new.unlink(missing_ok=True)
            lacking.append(one)
    if lacking:
        names = ", ".join(f"{one.name} {one.version}" for one in lacking[:5])
        more = f" and {len(lacking) - 5} more" if len(lacking) > 5 else ""
        words = " ".join(line for line in done.stderr.splitlines() if line.startswith(("E:", "Err")))[:300]
        raise LockError(
            f"{names}{more} cannot be had as the lock says; nothing was installed. apt says: {words or 'nothing'}. "
            "If the package sources no longer have them, make a new lock: appliance lock"
        )


def link_kept(release: Release, asked: list[str]) -> None:
    """Have the files of what is installed already, too, where another release has them: that one may go before."""
    for name in release.needed(asked):
        if not (release.debs / release.packages[name].file).exists():
            _is_linked(release.packages[name], release.debs)


def _is_linked(package: Package, debs: Path) -> bool:
    """Whether another release that is kept here has the file; it is then linked from there."""
    for other in debs.parent.parent.glob(f"*/debs/{package.file}"):
        if other.parent != debs and is_right(other, package):
            (debs / package.file).unlink(missing_ok=True)
            (debs / package.file).hardlink_to(other)
            return True
    return False


def is_right(path: Path, package: Package) -> bool:
    """Whether this is the file that the lock means."""
    try:
        with path.open("rb") as file:
            return os.fstat(file.fileno()).st_size == package.size and (
                hashlib.file_digest(file, "sha256").hexdigest() == package.sha256
            )
    except FileNotFoundError:
        return False


def install(release: Release, asked: list[str]) -> dict:
    """Install what differs; the files are there. What was done, as `locked.look` says it. Raises LockError."""
    versions = release.versions(asked)
    different = look(asked, versions)
    names = sorted(different["install"] | different["change"])
    if names:
        records.note_packages(list(installed()), sorted(different["install"].keys() & set(asked)))
        _finish_what_was_cut_off()
        _apt(release, [f"{name}={versions[name]}" for name in names])
        still = look(asked, versions)
        if left := sorted(still["install"] | still["change"]):
            raise LockError(f"apt did not bring {', '.join(left)} to what the lock says")
    return different


def _apt(release: Release, names: list[str]) -> None:
    """One transaction over the release's own files."""
    index = release.directory / "apt"
    (index / "lists/partial").mkdir(parents=True, exist_ok=True)
    _write_index(release, index)
    (index / "sources.list").write_text(f"deb [trusted=yes] file:{release.directory} ./\n")
    options = {
        "Dir::Etc::sourcelist": index / "sources.list", "Dir::Etc::sourceparts": "/dev/null",
        "Dir::State::lists": index / "lists", "Dir::Cache::pkgcache": "", "Dir::Cache::srcpkgcache": "",
        "Acquire::Languages": "none", "APT::Sandbox::User": "root", "DPkg::Lock::Timeout": _LOCK_SECONDS,
        # a changed file of ours is what a role wrote, and it writes it again
        "Dpkg::Options::": "--force-confold",
    }  # fmt: skip
    given = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
    _run(["apt-get", "-q", *given, "update"])
    with services_left_alone():
        _run(["apt-get", "-q", "-y", *given, "--no-install-recommends", "--allow-downgrades",
              "install", *names])  # fmt: skip


def _finish_what_was_cut_off() -> None:
    """Let dpkg end what a killed run began; apt goes on for a while when the run that began it is killed."""
    until = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            _run(["dpkg", "--configure", "-a"])
            return
        except LockError as error:
            if "lock" not in str(error) or time.monotonic() > until:
                raise
        time.sleep(2)


def _write_index(release: Release, index: Path) -> None:
    """The list of packages as apt reads it, of the files that are there."""
    parts = []
    for package in release.packages.values():
        path = release.debs / package.file
        if path.exists():
            control = _run(["dpkg-deb", "--field", str(path)]).rstrip("\n")
            parts.append(f"{control}\nFilename: debs/{package.file}\nSize: {package.size}\nSHA256: {package.sha256}\n")
    (release.directory / "Packages").write_text("\n".join(parts))


@contextlib.contextmanager
def services_left_alone():
    """Nothing starts or restarts because its package was installed: roles start and restart what they changed."""
    kept = _POLICY.read_bytes() if _POLICY.exists() else None
    if kept == _NO_SERVICES.encode():  # a run that was killed left it
        kept = None
    mode = _POLICY.stat().st_mode if kept is not None else 0o755
    _POLICY.write_text(_NO_SERVICES)
    _POLICY.chmod(0o755)
    try:
        yield
    finally:
        if kept is None:
            _POLICY.unlink()
        else:
            _POLICY.write_bytes(kept)
            _POLICY.chmod(mode)


def _room_for(size: int, debs: Path) -> None:
    free = shutil.disk_usage(debs).free
    if free < _ROOM * size:
        raise LockError(
            f"{debs} has {free >> 20} MiB left; the packages need about {_ROOM * size >> 20} with their archives: "
            "free some space"
        )


def _environment() -> dict[str, str]:
    # with the last, templates are not made for a QEMU whose guest is about to change (role microvm's hook of apt)
    return {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8", "CASEMATE_DEPLOYS": "1"}


def _run(argv: list[str]) -> str:
    done = subprocess.run(
        argv, capture_output=True, text=True, check=False, env=_environment(), stdin=subprocess.DEVNULL
    )
    if done.returncode:
        words = " ".join((done.stderr or done.stdout).strip().splitlines()[-4:])
        raise LockError(f"{argv[0]} failed: {words}")
    return done.stdout
