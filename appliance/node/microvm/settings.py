"""What /etc/casemate/microvm.json may say, its defaults, and the choice of a size for a pod's guest."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import NamedTuple

CONFIG = Path("/etc/casemate/microvm.json")
STATE = Path("/var/lib/casemate/microvm")
RUN = Path("/run/casemate/microvm")

PREPARE_UNIT = "casemate-microvm-prepare.service"

MIB = 1024 * 1024


class RuntimeFailure(Exception):
    """Something the runtime cannot or will not do; the text names cause, place and cure."""


class Size(NamedTuple):
    """One size class: what a guest gets."""

    name: str
    memory_mib: int
    vcpus: int
    template: bool = False


class Settings(NamedTuple):
    """The runtime's configuration; roles/microvm/defaults/main.yml is its manual."""

    accelerator: str = "auto"
    probe_deadline_s: int = 10
    start_deadline_s: int = 120
    guest_overhead_mib: int = 96
    disk_gib: int = 8
    start: str = "template"
    kernel_package: str = "linux-image-amd64"
    guest_packages: tuple[str, ...] = ("busybox-static", "crun", "libpython3-stdlib", "python3-minimal")
    release: str = ""  # directory of the release whose packages guests are made of; empty for what apt offers
    sizes: tuple[Size, ...] = (
        Size("small", 256, 1, template=True),
        Size("medium", 512, 1, template=True),
        Size("large", 1024, 2),
    )

    def templates(self) -> list[Size]:
        """Return the sizes that have a template."""
        return [size for size in self.sizes if size.template and self.start == "template"]

    def size_for(self, memory: int | None, vcpus: int | None) -> Size:
        """Return the smallest size that holds a pod with `memory` bytes and `vcpus` processors.

        None means that the pod sets no limit. A pod too big for every class gets a size of its own.
        """
        wanted_mib = 0 if not memory else -(-memory // MIB) + self.guest_overhead_mib
        wanted_cpus = min(vcpus or 1, os.cpu_count() or 1)
        for size in sorted(self.sizes, key=lambda s: (s.memory_mib, s.vcpus)):
            if size.memory_mib >= wanted_mib and size.vcpus >= wanted_cpus:
                return size
        largest = max(size.memory_mib for size in self.sizes)
        memory_mib = max(-(-wanted_mib // 64) * 64, min(s.memory_mib for s in self.sizes))
        if wanted_mib <= largest:
            memory_mib = next(
                s.memory_mib for s in sorted(self.sizes, key=lambda s: s.memory_mib) if s.memory_mib >= wanted_mib
            )
        return Size("custom", memory_mib, wanted_cpus)


def load(path: Path = CONFIG) -> Settings:
    """Return the settings; a missing file means the defaults.

    Raises RuntimeFailure naming file and key when the file cannot be understood.
    """
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        return Settings()
    except ValueError as error:
        raise RuntimeFailure(f"{path}: not JSON: {error}; deploy writes this file, run it again") from None
    known = set(Settings._fields)
    if unknown := sorted(set(content) - known):
        raise RuntimeFailure(f"{path}: unknown key {unknown[0]!r}; known are {', '.join(sorted(known))}")
    try:
        if "sizes" in content:
            content["sizes"] = tuple(Size(**size) for size in content["sizes"])
        if "guest_packages" in content:
            content["guest_packages"] = tuple(content["guest_packages"])
        settings = Settings(**content)
    except TypeError as error:
        raise RuntimeFailure(f"{path}: {error}") from None
    if settings.accelerator not in ("auto", "kvm", "tcg"):
        raise RuntimeFailure(f"{path}: accelerator is {settings.accelerator!r}, not one of auto, kvm, tcg")
    if settings.start not in ("template", "cold"):
        raise RuntimeFailure(f"{path}: start is {settings.start!r}, not one of template, cold")
    if not isinstance(settings.disk_gib, int) or settings.disk_gib < 1:
        raise RuntimeFailure(f"{path}: disk_gib is {settings.disk_gib!r}, not a number of GiB from 1")
    if not settings.sizes:
        raise RuntimeFailure(f"{path}: sizes is empty; a guest needs at least one")
    return settings
