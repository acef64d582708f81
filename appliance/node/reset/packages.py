"""Purging the packages that came with Casemate, and what nothing else needs once they are gone.

apt itself decides: in a copy of its records our packages are marked as installed automatically, and what it would
then remove, and would not have removed before, goes. So a package that something of the admin's needs stays.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from appliance.node.reset import records
from appliance.node.reset.remover import Remover, ResetError, run

# Read instead of the host's own configuration, whose protections would keep every kernel package; the running kernel is
# protected below. What was there before recommends or suggests some of what came with us, and did without it.
CONFIG = """
Dir::Etc::parts "/dev/null";
Dir::Etc::main "/dev/null";
Dir::State::extended_states "{states}";
APT::AutoRemove::SuggestsImportant "false";
APT::AutoRemove::RecommendsImportant "false";
APT::Protect-Kernels "false";
"""
STATES = Path("/var/lib/apt/extended_states")


def purge(remover: Remover, only: set[str] | None = None) -> None:
    """Purge them (or, of them, `only` these) in one transaction.

    Raises ResetError when apt would do anything else than was found.
    """
    ours = records.packages_installed() & present()
    if only is not None:
        ours &= only
    if not ours:
        return
    if not remover.check:
        run("dpkg", "--configure", "-a", env=_quiet())
    wanted = (_unneeded(ours) - _unneeded(set())) - records.packages_before()
    running = {p for p in wanted if p.startswith("linux-") and p.endswith(os.uname().release)}
    for name in sorted(running):
        remover.kept.append(f"package {name}: the running kernel's")
    for name in sorted(ours - wanted):
        remover.kept.append(f"package {name}: another package needs it")
    wanted -= running
    if not wanted:
        return
    foreseen = _removals(run("apt-get", "--simulate", "purge", *sorted(wanted), env=_quiet()))
    if foreseen != wanted:
        raise ResetError(f"apt would not remove {' '.join(sorted(wanted))} alone; no package was removed")
    if not remover.check:
        run("apt-get", "--yes", "-o", "DPkg::Lock::Timeout=120", "purge", *sorted(wanted), env=_quiet())
    remover.removed.append(f"packages {' '.join(sorted(wanted))}")


def present() -> set[str]:
    """The packages that are installed, or not quite."""
    listed = run("dpkg-query", "--show", "--showformat=${db:Status-Abbrev}${Package}\n")
    return {line[3:].strip() for line in listed.splitlines() if line[1] != "n" and line[1] != "c"}


def _unneeded(automatic: set[str]) -> set[str]:
    """What apt would remove as not needed if the packages of `automatic` had been installed automatically."""
    with tempfile.TemporaryDirectory() as scratch:
        states, config = Path(scratch, "states"), Path(scratch, "apt.conf")
        if STATES.exists():
            shutil.copy(STATES, states)
        config.write_text(CONFIG.format(states=states))
        env = _quiet() | {"APT_CONFIG": str(config)}
        if automatic:
            run("apt-mark", "auto", *sorted(automatic), env=env)
        return _removals(run("apt-get", "--simulate", "autoremove", env=env))


def _removals(simulation: str) -> set[str]:
    lines = [line.split() for line in simulation.splitlines()]
    return {words[1].partition(":")[0] for words in lines if words[:1] in (["Remv"], ["Purg"])}


def _quiet() -> dict[str, str]:
    return {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
