"""Before a release is changed: may it be, is all there that it takes, and can it be undone? Then it begins."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from appliance.node.reset import records

from . import guard, install, locked, path, transaction, watch
from .locked import Release

_SPARE_MIB = 256
# Programs that say whether they take a configuration: by package, its file, and what is asked of the unpacked one.
_CONFIGS = {
    "containerd": ("/etc/containerd/config.toml", ["usr/bin/containerd", "--config", "", "config", "dump"]),
    "prometheus": ("/etc/prometheus/prometheus.yml", ["usr/bin/promtool", "check", "config", ""]),
}


class Refused(Exception):
    """The release cannot be changed now; `problems` are all reasons, with cures. Nothing was changed."""

    def __init__(self, problems: list[str]):
        super().__init__("; ".join(problems))
        self.problems = problems


def begin(release: Release, content: dict, asked: list[str], report: Callable[[str], None], run: str) -> dict:
    """Fetch what the release needs, see that it may be installed, keep what is there, and have the guard watch.

    `run` names the run that asks for it. Returns {"packages": what `locked.look` says}. Raises Refused, LockError,
    PackageError, TransactionError; nothing but files below the releases' and the transaction's directories has changed
    then.
    """
    different = locked.look(asked, release.versions(asked))
    changes: dict[str, str | None] = {name: old for name, (old, _) in different["change"].items()}
    changes |= dict.fromkeys(different["install"])
    may_change = {name: old for name, (old, _) in different["own"].items()}
    here = transaction.released().get("release", content["release"])
    wrong_way = path.problem(here, content["release"], content["releases"])
    if problems := [*filter(None, [wrong_way]), *_problems(changes)]:
        raise Refused(problems)
    install.take(release)
    install.fetch(install.wanted(release, different), release.debs, report)
    install.link_kept(release, asked)
    locked.keep(release, content, asked)
    if problems := list(_refused(release, different["change"])):
        raise Refused(problems)
    transaction.begin(release.id, changes, report, may_change, run=run)
    guard.arm()
    return {"packages": different}


def _problems(changes: dict[str, str | None]) -> list[str]:
    found = []
    if sick := watch.failing():
        found.append(f"the host is not well ({', '.join(sick)}): see appliance doctor, and upgrade once it is")
    held = _run(["apt-mark", "showhold"]).split()
    if kept := sorted(changes.keys() & set(held)):
        found.append(f"{', '.join(kept)} is held at its version: apt-mark unhold {kept[0]}, or lock that version")
    if audit := _run(["dpkg", "--audit"]).strip():
        found.append(f"dpkg has something unfinished ({audit.splitlines()[0]}): dpkg --configure -a")
    sizes = [path.stat().st_size for path in records.files() if path.is_file()]
    free = shutil.disk_usage(records.STATE).free >> 20
    if free < (sum(sizes) >> 20) + _SPARE_MIB:
        found.append(f"{records.STATE} has {free} MiB left, too few to keep what is there: free some space")
    return found


def _refused(release: Release, changes: dict) -> Iterator[str]:
    """Each program that is to come and would not start with the configuration that is there."""
    for name, (config, question) in _CONFIGS.items():
        if name not in changes or not Path(config).exists():
            continue
        with tempfile.TemporaryDirectory() as work:
            _run(["dpkg-deb", "--extract", str(release.debs / release.packages[name].file), work])
            program, *words = question
            argv = [f"{work}/{program}", *(word or config for word in words)]
            done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if done.returncode:
            said = re.sub(r"\s+", " ", (done.stderr or done.stdout).strip())[-200:]
            yield f"{name} {changes[name][1]} does not take {config}: {said}"


def _run(argv: list[str]) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=False).stdout
