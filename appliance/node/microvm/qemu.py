"""QEMU: one command line for every guest, and as much of its control protocol (QMP) as templates need.

The same `Machine` is used to make a template and to restore it, because a saved guest fits only the machine it was
saved from: same devices, in the same order. Descriptors, paths and the accelerator's speed are not part of that.
"""

from __future__ import annotations

import array
import json
import os
import re
import socket
import subprocess
from pathlib import Path
from typing import NamedTuple

from .settings import RuntimeFailure

BINARY = "qemu-system-x86_64"


class NoAnswer(RuntimeFailure):
    """QEMU is there and silent."""


TRANSLATION_MIB = 256
"""Most memory, in MiB, for translated code under emulation: QEMU's own choice is an eighth of the host's."""


class Machine(NamedTuple):
    """What one guest is started with. Paths are as QEMU sees them (inside the pod's jail, or on the host)."""

    accelerator: str
    memory_mib: int
    vcpus: int
    vmlinuz: str
    initrd: str
    rootfs: str
    tsc_khz: int | None = None  # where emulated
    disk: str | None = None
    memory_file: str | None = None
    memory_shared: bool = False
    memory_read_only: bool = False
    tap: str | None = None
    shares: tuple[tuple[str, str], ...] = ()  # mount tag, directory
    agent_fd: int | None = None
    qmp_fd: int | None = None
    incoming: bool = False

    def argv(self) -> list[str]:
        """Return QEMU's command line."""
        kvm = self.accelerator == "kvm"
        accelerator, cpu = ("kvm", "host") if kvm else (f"tcg,tb-size={TRANSLATION_MIB}", "max")
        machine = "microvm,acpi=on,rtc=on" + (",memory-backend=memory" if self.memory_file else "")
        # fmt: off
        argv = [
            BINARY, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
            "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
            "-accel", accelerator, "-cpu", cpu, "-smp", str(self.vcpus), "-m", f"{self.memory_mib}M",
            "-M", machine, "-serial", "stdio",
            "-drive", f"if=none,id=root,format=raw,readonly=on,file={self.rootfs}",
            "-device", "virtio-blk-device,drive=root,serial=root",  # by which the guest tells its disks apart
            "-device", "virtio-rng-device",
            "-device", "virtio-serial-device",
        ]
        if not self.incoming:  # a saved guest has them in its memory; QEMU would keep 8 MiB for them
            argv += ["-kernel", self.vmlinuz, "-initrd", self.initrd, "-append", kernel_words(self.tsc_khz)]
        if self.disk:
            # What is on it ends with the pod, so nothing of it need survive the host: cache=unsafe.
            argv += ["-drive", f"if=none,id=disk,format=raw,cache=unsafe,discard=unmap,file={self.disk}",
                     "-device", "virtio-blk-device,drive=disk,serial=disk"]
        if self.memory_file:
            backend = f"memory-backend-file,id=memory,size={self.memory_mib}M,mem-path={self.memory_file}"
            backend += f",share={'on' if self.memory_shared else 'off'}"
            argv += ["-object", backend + (",readonly=on,rom=off" if self.memory_read_only else "")]
        if self.agent_fd is not None:
            argv += ["-chardev", f"socket,id=agent,fd={self.agent_fd}",
                     "-device", "virtserialport,chardev=agent,name=casemate"]
        if self.qmp_fd is not None:
            argv += ["-chardev", f"socket,id=qmp,fd={self.qmp_fd}", "-mon", "chardev=qmp,mode=control"]
        if self.tap:
            argv += ["-netdev", f"tap,id=net,ifname={self.tap},script=no,downscript=no",
                     "-device", "virtio-net-device,netdev=net"]
        for tag, directory in self.shares:
            argv += ["-fsdev", f"local,id={tag},path={directory},security_model=passthrough,multidevs=remap",
                     "-device", f"virtio-9p-device,fsdev={tag},mount_tag={tag}"]
        # fmt: on
        return argv + (["-incoming", "defer"] if self.incoming else [])


def kernel_words(tsc_khz: int | None = None, extra: str = "") -> str:
    """Return the guest kernel's command line; `tsc_khz` where it has no way to measure its time stamp counter.

    Left to itself, an emulated guest's calibration hangs now and then, and its check of the counter drops it.
    """
    words = "console=ttyS0 quiet panic=-1 oops=panic reboot=t rdinit=/init no_timer_check"
    words += f" tsc_early_khz={tsc_khz} tsc=reliable" if tsc_khz else ""
    return f"{words} {extra}".strip()


def identity() -> str:
    """Return what changes when QEMU is upgraded, without starting it."""
    for directory in os.get_exec_path():
        try:
            stat = Path(directory, BINARY).stat()
        except OSError:
            continue
        return f"{stat.st_size}-{int(stat.st_mtime)}"
    return "missing"


def version() -> str:
    """Return QEMU's version with the distribution's suffix. Raises RuntimeFailure when QEMU is not there."""
    try:
        done = subprocess.run([BINARY, "--version"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise RuntimeFailure(f"cannot run {BINARY}: {error}; deploy installs it (microvm_packages)") from None
    return done.stdout.splitlines()[0].removeprefix("QEMU emulator version ")


def private_memory_read_only(qemu_version: str) -> bool:
    """Tell whether this QEMU can map a read-only file as private, writable memory (8.2 and newer)."""
    numbers = re.match(r"(\d+)\.(\d+)", qemu_version)
    return bool(numbers) and (int(numbers[1]), int(numbers[2])) >= (8, 2)


class Qmp:
    """A blocking QMP client on an already connected socket."""

    def __init__(self, connection: socket.socket, deadline_s: float = 30):
        connection.settimeout(deadline_s)
        self._socket = connection
        self._buffer = b""
        self._read()  # the greeting
        self.command("qmp_capabilities")

    def command(self, name: str, fd: int | None = None, **arguments: object) -> object:
        """Run one command, passing `fd` along, and return its result. Raises RuntimeFailure with QEMU's words."""
        data = json.dumps({"execute": name, "arguments": arguments}).encode()
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))] if fd is not None else []
        self._socket.sendmsg([data], ancillary)
        while True:
            answer = self._read()
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                raise RuntimeFailure(f"QEMU refuses {name}: {answer['error']['desc']}")

    def wait_event(self, *names: str, **data: object) -> dict:
        """Wait for an event of one of these names whose data holds `data`; return its data."""
        while True:
            answer = self._read()
            if answer.get("event") in names and data.items() <= answer.get("data", {}).items():
                return answer.get("data", {})

    def migration(self, uri: str, incoming: bool) -> None:
        """Save to, or restore from, an open file (``fd:NAME``): the devices only, memory is in its own file."""
        capabilities = [{"capability": name, "state": True} for name in ("x-ignore-shared", "events")]
        self.command("migrate-set-capabilities", capabilities=capabilities)
        self.command("migrate-incoming" if incoming else "migrate", uri=uri)
        while True:
            status = self.wait_event("MIGRATION")["status"]
            if status == "completed":
                return
            if status in ("failed", "cancelled"):
                raise RuntimeFailure("QEMU could not " + ("restore the template" if incoming else "save the guest"))

    def _read(self) -> dict:
        while b"\n" not in self._buffer:
            try:
                data = self._socket.recv(65536)
            except TimeoutError:
                raise NoAnswer("QEMU does not answer on its control socket") from None
            if not data:
                raise RuntimeFailure("QEMU has ended")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return json.loads(line)


def socket_pair() -> tuple[socket.socket, socket.socket]:
    """Return (ours, QEMU's): the second one is inheritable."""
    ours, theirs = socket.socketpair()
    os.set_inheritable(theirs.fileno(), True)
    return ours, theirs
