"""Templates: a guest booted once, stopped with its agent waiting, from which every pod's guest is restored.

A template is a directory with ``memory`` (the guest's RAM, sparse), ``devices`` (QEMU's migration stream, some 70 KB)
and ``template.json``, written last. It is named by everything it depends on, so a stale one is never found.
The agent waits and nothing is mounted, so it holds no secret and no identity but the ones that `configure` replaces.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from . import boot, qemu, store, tsc
from .image import Image, Report
from .qemu import Machine
from .settings import MIB, STATE, RuntimeFailure, Settings, Size

TEMPLATES = STATE / "templates"
HELD = STATE / "held-templates.json"
SHARES = ("share", "volumes")
"""Mount tags of a guest's two 9p exports: containers' root file systems, and their volumes."""
FILES = ("memory", "devices")
"""Both are recorded in template.json: inode, size and change time, and SHA-256."""
PATIENCE = 3
"""How many times as long as a pod's guest a template's may take: no pod waits, and several boot at a time."""
OWN_NETWORK = ("setpriv", "--pdeathsig", "KILL", "unshare", "--net")
"""Put before QEMU on the host: it makes its tap in a network namespace that goes away with it, and ends with us."""


class Template(NamedTuple):
    directory: Path
    memory: Path
    devices: Path
    read_only: bool


def key(image: Image, size: Size, accelerator: str, qemu_identity: str) -> str:
    """Return the name of the template that fits these."""
    sample = machine(image, size, accelerator).argv()
    parts = [image.key, size.memory_mib, size.vcpus, accelerator, qemu_identity, sample]
    if accelerator == "kvm":
        parts += [os.uname().release, tsc.model()]  # a guest saved with `-cpu host` fits only what it was saved on
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def find(image: Image, size: Size, accelerator: str, qemu_identity: str) -> tuple[Template | None, str]:
    """Return the template for these and "", or None and why there is none that can be used.

    QEMU before 8.2 can only open the memory file for writing, though it maps it privately. The file's change time,
    which no process can set, tells whether a guest that broke out of its QEMU has written to it.
    """
    directory = TEMPLATES / key(image, size, accelerator, qemu_identity)
    record = store.read_json(directory / "template.json")
    if record is None:
        return None, "none was made yet for this QEMU, guest image and configuration, or the last one was broken"
    for name in FILES:
        file = directory / name
        if not file.exists():
            return None, f"{file} is missing"
        if _identity(file) != record["files"][name]["identity"]:
            return None, f"{file} was written to after it was made"
    if _sha256(directory / "devices") != record["files"]["devices"]["sha256"]:
        return None, f"{directory / 'devices'} is not what was written"
    return Template(directory, directory / "memory", directory / "devices", record["read_only"]), ""


def drop_damaged(image: Image, size: Size, accelerator: str, qemu_identity: str) -> bool:
    """Read the template's memory, as a start does not; drop one that is not what was written, and tell whether it was.

    A bad disk changes no time stamp, and a guest with a wrong bit may run for a while.
    """
    found, _ = find(image, size, accelerator, qemu_identity)
    if found is None:
        return False
    record = store.read_json(found.directory / "template.json")
    if _sha256(found.memory) == record["files"]["memory"]["sha256"]:
        return False
    drop(found.directory)
    return True


def drop(directory: Path) -> None:
    """Let no pod use this template again; the guests that run from it keep its files."""
    (directory / "template.json").unlink(missing_ok=True)


def machine(image: Image, size: Size, accelerator: str) -> Machine:
    """Return the machine of a guest, without what differs from pod to pod."""
    return Machine(
        accelerator=accelerator,
        memory_mib=size.memory_mib,
        vcpus=size.vcpus,
        vmlinuz=str(image.vmlinuz),
        initrd=str(image.initrd),
        rootfs=str(image.rootfs),
        tsc_khz=None if accelerator == "kvm" else tsc.khz(),
        disk=str(image.disk),
        tap="tap0",
        shares=tuple((tag, f"/run/pod/{tag}") for tag in SHARES),
    )


def make(settings: Settings, image: Image, size: Size, accelerator: str, qemu_identity: str, report: Report) -> None:
    """Make the template for `size` unless a good one is there.

    Raises RuntimeFailure when there is no space, the guest does not boot within the settings' deadline or QEMU refuses
    to save it.
    """
    if find(image, size, accelerator, qemu_identity)[0]:
        return
    name = key(image, size, accelerator, qemu_identity)
    TEMPLATES.mkdir(parents=True, exist_ok=True)
    free_mib = shutil.disk_usage(TEMPLATES).free // MIB
    if free_mib < size.memory_mib:  # the file of its memory grows while the guest runs, which kills QEMU without a word
        raise RuntimeFailure(
            f"{TEMPLATES}: no space for a template of size {size.name}, which takes up to {size.memory_mib} MiB: "
            f"{free_mib} MiB are free; free some, or take it out of microvm_sizes"
        )
    report(f"template {size.name}: booting a guest ({size.memory_mib} MiB, {size.vcpus} vCPU, {accelerator})")
    start = time.monotonic()
    work = Path(tempfile.mkdtemp(prefix=".new-", dir=TEMPLATES))
    try:
        files = work / "files"
        files.mkdir(mode=0o755)
        guest_machine = _on_host(machine(image, size, accelerator), work)
        _save(settings, guest_machine, files)
        read_only = qemu.private_memory_read_only(qemu.version())
        _try(settings, guest_machine, Template(files, files / "memory", files / "devices", read_only))
        record = {
            "size": size._asdict(), "accelerator": accelerator, "image": image.key, "read_only": read_only,
            "files": {n: {"identity": _identity(files / n), "sha256": _sha256(files / n)} for n in FILES},
        }  # fmt: skip
        store.write_json(files / "template.json", record)
        shutil.rmtree(TEMPLATES / name, ignore_errors=True)
        files.rename(TEMPLATES / name)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    report(f"template {size.name}: made in {time.monotonic() - start:.1f} s")


def hold(names: set[str]) -> None:
    """Have these templates outlive others that will be made: the release that they are of may come back."""
    store.write_json(HELD, {"templates": sorted(names)})


def prune(keep: set[str]) -> None:
    """Remove all templates but those that `keep` and `hold` name, and what a killed maker left.

    Running guests keep their files.
    """
    if TEMPLATES.is_dir():
        held = set((store.read_json(HELD) or {}).get("templates", ()))
        for entry in TEMPLATES.iterdir():
            if entry.name not in keep | held:
                shutil.rmtree(entry, ignore_errors=True)


def _on_host(guest_machine: Machine, work: Path) -> Machine:
    """Return the machine with exports that are there on the host, and empty, and a disk of its own."""
    empty = work / "empty"
    empty.mkdir()
    store.copy_sparse(Path(guest_machine.disk), work / "disk")
    shares = tuple((tag, str(empty)) for tag, _ in guest_machine.shares)
    return guest_machine._replace(shares=shares, disk=str(work / "disk"))


def _try(settings: Settings, guest_machine: Machine, saved: Template) -> None:
    """Restore the template once, as pods will. Raises RuntimeFailure when the guest does not answer."""
    restored = guest_machine._replace(memory_file=str(saved.memory), memory_read_only=saved.read_only, incoming=True)
    guest = boot.launch(restored, prefix=OWN_NETWORK)
    try:
        boot.restore(guest, str(saved.devices))
        guest.call("ping", time.monotonic() + PATIENCE * settings.start_deadline_s)
    finally:
        guest.end()


def _save(settings: Settings, guest_machine: Machine, files: Path) -> None:
    """Boot a guest to its waiting agent and save it into `files`."""
    memory = files / "memory"
    with memory.open("wb") as file:
        file.truncate(guest_machine.memory_mib * MIB)
    guest_machine = guest_machine._replace(memory_file=str(memory), memory_shared=True)
    guest = boot.launch(guest_machine, prefix=OWN_NETWORK)
    try:
        guest.call("ping", time.monotonic() + PATIENCE * settings.start_deadline_s)
        control = qemu.Qmp(guest.qmp_socket)
        control.command("stop")
        with (files / "devices").open("wb") as file:
            control.command("getfd", fd=file.fileno(), fdname="state")
            control.migration("fd:state", incoming=False)
            os.fsync(file.fileno())
    finally:
        guest.end()
    with memory.open("rb") as file:
        os.fsync(file.fileno())


def _identity(file: Path) -> list[int]:
    stat = file.stat()
    return [stat.st_ino, stat.st_size, stat.st_ctime_ns]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
