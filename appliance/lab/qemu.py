"""Lab hosts as QEMU machines: slower than systemd-nspawn, but with a kernel, modules and cgroups of their own.

The root disk is made without mounting anything: `mke2fs -d` fills it from the base root file system, `debugfs` writes
what belongs to one host. The kernel and its initramfs are booted directly, so there is no boot loader.

Each step first looks whether its result is there, so the same call makes a host, repairs a half-made one and starts
one again after the machine was rebooted.
"""

import contextlib
import os
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from appliance.errors import CasemateError
from appliance.lab import network, qemu_image
from appliance.lab.accelerator import kvm_works
from appliance.lab.state import GATEWAY, Host

PROGRAM = "qemu-system-x86_64"
BOOT_SECONDS = 420  # emulated and on a busy machine; 60 s is usual
STOP_SECONDS = 15
DEFAULT_MEMORY_MIB = 3072
DATA_SERIAL = "casemate-data"
# Variables of an emulated host: a guest in a guest there takes a minute to boot, and is not broken for that.
PATIENCE = {"microvm_probe_deadline": 150, "microvm_start_deadline": 400, "pods_ready_timeout": 900}
STATES_UP = ("running", "degraded")


def up(host: Host, progress: Callable[[str], None]) -> None:
    """Make and boot the host; returns when its systemd says it is running."""
    base = qemu_image.base(host.release, progress)
    network.tap(host)
    if not _root_disk(host).exists():
        progress(f"{host.name}: making its disks")
        _make_keys(host)
        making = host.dir / "root.making"
        subprocess.run(["cp", "--sparse=always", "--reflink=auto", str(base.disk), str(making)], check=True)
        qemu_image.write_files(making, _own_files(host), host.dir / "personal")
        making.rename(_root_disk(host))
    if not host.disk.exists():
        with host.disk.open("wb") as disk:
            disk.truncate(host.disk_mib * 1024 * 1024)
    host.vars = {
        "ansible_host": host.ip,
        "ansible_user": "root",
        "ansible_ssh_private_key_file": str(_key(host)),
        "ansible_ssh_common_args": shlex.join(_host_key_options(host)),
        "ansible_python_interpreter": "/usr/bin/python3",
        "storage_device": f"/dev/disk/by-id/virtio-{DATA_SERIAL}",
    }
    kvm = kvm_works(base.kernel)
    if not kvm:
        host.vars |= PATIENCE
    if _pid(host) is None:
        progress(f"{host.name}: booting" + ("" if kvm else " (emulated, there is no usable KVM: about a minute)"))
        _boot(host, base, kvm)
    _wait_until_running(host)


def down(host: Host) -> None:
    """End the host and remove all that `up` made. Works on whatever a crash left."""
    pid = _pid(host)
    if pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + STOP_SECONDS
        while _pid(host) is not None:
            if time.monotonic() > deadline:
                raise CasemateError(f"{host.name} does not end (pid {pid})", place=str(host.dir))
            time.sleep(0.1)
    network.unplug(host)


def state(host: Host) -> str:
    """`running`, `degraded`, `starting` ... as systemd in the host says, or `stopped`."""
    if _pid(host) is None:
        return "stopped"
    if not _answers(host):
        return "starting"
    argv = [*_ssh(host), "-o", "BatchMode=yes", "systemctl", "is-system-running"]
    said = subprocess.run(argv, capture_output=True, text=True, check=False).stdout.strip()
    return said or "starting"


def shell(host: Host, command: list[str]) -> list[str]:
    """The argv that runs `command` (a login shell when empty) in the host."""
    if _pid(host) is None:
        raise CasemateError(f"{host.name} is not running", cure="appliance lab up")
    return [*_ssh(host), shlex.join(command)] if command else [*_ssh(host), "-t"]


def boot_argv(host: Host, base: qemu_image.Base, kvm: bool) -> list[str]:
    """QEMU's command line.

    Emulated hosts have AMD's virtualisation, so that the KVM path of the runtime can be exercised in them, and for
    that reason one CPU only: with two, the kernel of an emulated host crashes under a nested guest.
    """
    if kvm:
        processor = ["-accel", "kvm", "-cpu", "host", "-smp", str(os.cpu_count() or 1)]
    else:
        processor = ["-accel", "tcg", "-cpu", "max,+svm", "-smp", "1"]
    return [
        PROGRAM, "-name", f"casemate-lab-{host.name}",
        "-M", "q35", *processor, "-m", str(host.memory_mib or DEFAULT_MEMORY_MIB),
        "-nodefaults", "-display", "none", "-serial", _serial(host),
        "-kernel", str(base.kernel), "-initrd", str(base.initrd),
        "-append", "root=/dev/vda rw console=ttyS0 net.ifnames=0 quiet",
        "-drive", f"file={_root_disk(host)},if=none,id=root,format=raw,cache=unsafe",
        "-device", "virtio-blk-pci,drive=root",
        "-drive", f"file={host.disk},if=none,id=data,format=raw,cache=unsafe",
        "-device", f"virtio-blk-pci,drive=data,serial={DATA_SERIAL}",
        "-netdev", f"tap,id=net,ifname={host.interface},script=no,downscript=no",
        "-device", f"virtio-net-pci,netdev=net,mac=52:54:00:87:00:{host.index:02x}",
        "-device", "virtio-rng-pci",
    ]  # fmt: skip


def _boot(host: Host, base: qemu_image.Base, kvm: bool) -> None:
    with (host.dir / "qemu.log").open("ab") as log:
        subprocess.Popen(
            boot_argv(host, base, kvm), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    deadline = time.monotonic() + STOP_SECONDS
    while _pid(host) is None:
        if time.monotonic() > deadline:
            raise CasemateError(f"QEMU did not start for {host.name}: {_tail(host.dir / 'qemu.log')}", place=log.name)
        time.sleep(0.1)


def _wait_until_running(host: Host) -> None:
    deadline = time.monotonic() + BOOT_SECONDS
    while time.monotonic() < deadline and (now := state(host)) != "stopped":
        if now in STATES_UP:
            return
        time.sleep(1)
    raise CasemateError(
        f"{host.name} did not boot within {BOOT_SECONDS} s (state: {state(host)}); "
        f"its console ends: {_tail(host.console)}; QEMU says: {_tail(host.dir / 'qemu.log')}",
        place=str(host.console),
        cure=f"appliance lab down {host.name}, then lab up again",
    )


def _answers(host: Host) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((host.ip, 22), timeout=2):
        return True
    return False


def _pid(host: Host) -> int | None:
    """The pid of the host's QEMU, known by its console: no pid file that could be missing or name somebody else."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            argv = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue  # it ended while we looked
        if _serial(host) in argv and Path(argv[0]).name == PROGRAM:
            return int(entry.name)
    return None


def _ssh(host: Host) -> list[str]:
    options = ["-i", str(_key(host)), "-o", "LogLevel=ERROR", "-o", "ConnectTimeout=30", *_host_key_options(host)]
    return ["ssh", *options, f"root@{host.ip}"]


def _host_key_options(host: Host) -> list[str]:
    return ["-o", f"UserKnownHostsFile={host.dir / 'known_hosts'}", "-o", "StrictHostKeyChecking=yes"]


def _make_keys(host: Host) -> None:
    """A key to enter with and the host's own, so that the first connection is already to a known host."""
    for name in (_key(host), host.dir / "host_key"):
        name.unlink(missing_ok=True)
        argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"casemate-lab-{host.name}", "-f", str(name)]
        subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)
    public = (host.dir / "host_key.pub").read_text()
    (host.dir / "known_hosts").write_text(f"{host.ip} {public}")


def _own_files(host: Host) -> dict[str, tuple[str, int]]:
    """What makes the base this host: path to text and mode."""
    return {
        "/etc/hostname": (f"{host.name}\n", 0o644),
        "/etc/hosts": (f"127.0.0.1 localhost\n::1 localhost ip6-localhost\n{host.ip} {host.name}\n", 0o644),
        "/etc/resolv.conf": (Path("/etc/resolv.conf").read_text(), 0o644),
        "/etc/systemd/network/10-lab.network": (
            f"[Match]\nType=ether\nName=eth0\n\n[Link]\nMTUBytes={network.mtu(host.interface)}\n\n"
            f"[Network]\nAddress={host.ip}/24\nGateway={GATEWAY}\n",
            0o644,
        ),
        "/root/.ssh/authorized_keys": (_key(host).with_suffix(".pub").read_text(), 0o600),
        "/etc/ssh/ssh_host_ed25519_key": ((host.dir / "host_key").read_text(), 0o600),
        "/etc/ssh/ssh_host_ed25519_key.pub": ((host.dir / "host_key.pub").read_text(), 0o644),
    }


def _key(host: Host) -> Path:
    return host.dir / "ssh_key"


def _serial(host: Host) -> str:
    return f"file:{host.console}"


def _root_disk(host: Host) -> Path:
    return host.dir / "root.img"


def _tail(path: Path) -> str:
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    return " | ".join(lines[-5:]) or "nothing"
