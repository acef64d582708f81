"""Package files of what is installed now, so that it can be put back; and putting it back, by dpkg alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from . import install, locked
from .locked import RELEASES

_APT_CACHE = Path("/var/cache/apt/archives")


class PackageError(Exception):
    """A package's file cannot be had, or dpkg did not do as it was told; the message has its words."""


def keep(versions: dict[str, str], debs: Path) -> None:
    """Have the file of each of these packages in `debs`, as NAME.deb: from a kept release, or from the package sources.

    Raises PackageError naming all that cannot be had.
    """
    there = keep_what_can_be(versions, debs)
    if lacking := [f"{name} {version}" for name, version in sorted(versions.items()) if name not in there]:
        raise PackageError(
            f"{', '.join(lacking)}: installed here, but its package file cannot be had any more, so this change could "
            "not be undone. Install a version that the package sources have (apt-get install), then upgrade"
        )


def keep_what_can_be(versions: dict[str, str], debs: Path) -> dict[str, str]:
    """As `keep`, but those whose file cannot be had are left out of what it returns: the others, by name."""
    debs.mkdir(parents=True, exist_ok=True)
    sought = {n: version for n, version in versions.items() if not _take_kept(n, version, debs / f"{n}.deb")}
    if sought:
        _download(sought, debs)
    return {name: version for name, version in versions.items() if (debs / f"{name}.deb").exists()}


def put_back(versions: Mapping[str, str | None], files: Mapping[str, Path]) -> None:
    """Bring these packages to their versions, from `files` by name; those that are None go.

    Raises PackageError with dpkg's words.
    """
    there = locked.installed()
    wrong = [name for name, version in versions.items() if version and there.get(name) != version]
    new = [name for name, version in versions.items() if version is None and _is_known(name)]
    with install.services_left_alone():
        if wrong:
            # what replaces them may depend on each other; they are a set that worked
            _dpkg("--force-downgrade", "--force-confold", "--force-depends", "--install",
                  *(str(files[name]) for name in sorted(wrong)))  # fmt: skip
        if new:
            _dpkg("--force-depends", "--purge", *sorted(new))
        _dpkg("--configure", "-a")
    there = locked.installed()
    if left := [name for name, version in versions.items() if there.get(name) != version]:
        raise PackageError(f"dpkg left {', '.join(sorted(left))} in another version than before")


def _take_kept(name: str, version: str, target: Path) -> bool:
    """Link or copy a package's file from a release that is kept here, or from apt's cache."""
    for directory in RELEASES.iterdir() if RELEASES.is_dir() else ():
        if not (directory / "lock.json").exists():
            continue
        package = locked.load(directory.name).packages.get(name)
        if package and package.version == version and install.is_right(directory / "debs" / package.file, package):
            shutil.copyfile(directory / "debs" / package.file, target)
            return True
    for cached in _APT_CACHE.glob(f"{name}_{version.replace(':', '%3a')}_*.deb"):
        shutil.copyfile(cached, target)
        return True
    return False


def _download(versions: dict[str, str], debs: Path) -> None:
    """Ask the package sources; one by one where not all can be had, so that those that can are."""
    wanted = [f"{name}={version}" for name, version in sorted(versions.items())]
    with tempfile.TemporaryDirectory(dir=debs) as work:
        for words in [wanted] if _apt_download(wanted, work) else [[one] for one in wanted]:
            _apt_download(words, work)
        for file in Path(work).glob("*.deb"):
            file.replace(debs / f"{file.name.split('_')[0]}.deb")


def _apt_download(words: list[str], directory: str) -> bool:
    argv = ["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", *words]
    return subprocess.run(argv, cwd=directory, capture_output=True, check=False, env=_environment()).returncode == 0


def _is_known(name: str) -> bool:
    """Whether dpkg has anything of a package, were it half-installed or its configuration only."""
    shown = ["dpkg-query", "--show", "--showformat=${db:Status-Status}", name]
    done = subprocess.run(shown, capture_output=True, text=True, check=False)
    return done.returncode == 0 and done.stdout.strip() not in ("", "not-installed")


def _dpkg(*arguments: str) -> None:
    done = subprocess.run(["dpkg", *arguments], capture_output=True, text=True, check=False, env=_environment(),
                          stdin=subprocess.DEVNULL)  # fmt: skip
    if done.returncode:
        words = " ".join(done.stderr.strip().splitlines()[-4:])
        raise PackageError(f"dpkg {arguments[0]} failed: {words}")


def _environment() -> dict[str, str]:
    return {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
