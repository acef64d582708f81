"""What `python3 casemate-node.pyz` does: run one of the programs, or install them all on this host."""

import hashlib
import importlib
import os
import sys
import zipfile
from pathlib import Path

LIB = Path("/usr/lib/casemate")
KEEP_RELEASES = 3  # a rollback needs the one before
RUN = Path("/run/casemate/microvm")

PROGRAMS = {
    "backup": "appliance.node.backup.cli",
    "bench": "appliance.node.bench.cli",
    "edge": "appliance.node.edge.cli",
    "health": "appliance.node.health.cli",
    "migrate": "appliance.node.migrate.cli",
    "pod": "appliance.node.pods.cli",
    "microvm": "appliance.node.microvm.cli",
    "release": "appliance.node.release.cli",
    "reset": "appliance.node.reset.cli",
}


def main(argv: list[str]) -> int:
    """Run `PROGRAM ARGUMENTS...` or `install [--within ID]`; returns the exit code."""
    if argv[:1] == ["install"]:
        if len(argv) == 3 and not _goes_on(argv[2]):
            return 1
        return install(Path(sys.argv[0]))
    if not argv or argv[0] not in PROGRAMS:
        print(f"usage: casemate-node.pyz install|{'|'.join(PROGRAMS)} ...", file=sys.stderr)
        return 2
    return importlib.import_module(PROGRAMS[argv[0]]).main(argv[1:])


def install(archive: Path) -> int:
    """Unpack `archive` to /usr/lib/casemate/node/ID and make it current, in one step at the end.

    Prints `installed ID` when something changed, else `current ID`.
    """
    identity = hashlib.sha256(archive.read_bytes()).hexdigest()[:12]
    release = LIB / "node" / identity
    if (LIB / "current").is_symlink() and (LIB / "current").resolve() == release and (LIB / "bin").exists():
        print(f"current {identity}")
        return 0
    if not release.is_dir():
        making = LIB / "node" / f".{identity}.{os.getpid()}"
        with zipfile.ZipFile(archive) as bundle:
            for info in bundle.infolist():
                bundle.extract(info, making)
                (making / info.filename).chmod(info.external_attr >> 16 & 0o777)
        import compileall

        compileall.compile_dir(making, quiet=1)
        making.rename(release)
    _link(LIB / "current", f"node/{identity}")
    _link(LIB / "bin", "current/appliance/node/bin")
    _forget_old(keep=release)
    print(f"installed {identity}")
    return 0


def _goes_on(lock: str) -> bool:
    from appliance.node.release import transaction

    try:
        transaction.require(lock)
    except transaction.TransactionError as error:
        print(f"casemate-node.pyz: {error}", file=sys.stderr)
        return False
    return True


def _link(link: Path, target: str) -> None:
    new = link.with_name(f".{link.name}.{os.getpid()}")
    new.symlink_to(target)
    new.replace(link)


def _forget_old(keep: Path) -> None:
    import shutil

    in_use = {keep, *(link.readlink() for link in RUN.glob("*/release"))}  # each serves the pods that it has started
    found = sorted((LIB / "node").iterdir(), key=lambda d: d.stat().st_mtime, reverse=True)
    cut_off = [d for d in found if d.name.startswith(".")]
    releases = [d for d in found if d not in in_use and d not in cut_off]
    for old in [*cut_off, *releases[KEEP_RELEASES - 1 :]]:
        shutil.rmtree(old)
