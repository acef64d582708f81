"""Lab hosts as systemd-nspawn containers: their own systemd, network namespace and block device.

Each step first looks whether its result is there, so the same call makes a host, repairs a half-made one and
starts one again after the machine was rebooted.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

from appliance.errors import CasemateError
from appliance.lab import cgroups, image, network
from appliance.lab.leader import leader_of, supervisor_of
from appliance.lab.state import Host
from appliance.processes import die_with_parent

BOOT_SECONDS = 90
STOP_SECONDS = 15
DEVICES = ("/dev/kvm", "/dev/net/tun", "/dev/fuse", "/dev/loop-control")
STATES_UP = ("running", "degraded")


def up(host: Host, progress) -> None:
    """Make and boot the host; returns when its systemd says it is running."""
    base = image.base_root(host.release, progress)
    if not host.root.is_dir():
        making = host.dir / "root.making"
        if making.exists():
            shutil.rmtree(making)
        progress(f"{host.name}: copying the base image")
        # a copy that outlived a killed `lab up` would write on while `lab down` removes
        subprocess.run(["cp", "-a", "--reflink=auto", str(base), str(making)], check=True, preexec_fn=die_with_parent)
        _personalise(host, making)
        making.rename(host.root)
    network.plug(host)
    loop = _attach_disk(host)
    host.vars = {
        "ansible_connection": "casemate_nspawn",
        "ansible_host": host.ip,
        "ansible_nspawn_directory": str(host.root),
        "ansible_python_interpreter": "/usr/bin/python3",
        "storage_device": loop,
    }
    if supervisor_of(host.root) is None:
        progress(f"{host.name}: booting")
        _boot(host, loop)
    _wait_until_running(host)


def down(host: Host) -> None:
    """End the host and remove all that `up` made. Works on whatever a crash left."""
    leader = leader_of(host.root)
    supervisor = supervisor_of(host.root)
    # killing PID 1 of a namespace ends all in it, with no process of ours to name
    for pid in filter(None, (leader, supervisor)):
        _kill(pid)
    _wait_gone(host)
    _detach_disk(host)
    network.unplug(host)
    _remove_nspawn_traces(host)
    cgroups.remove(host)


def state(host: Host) -> str:
    """`running`, `degraded`, `starting` ... as systemd in the host says, or `stopped`."""
    leader = leader_of(host.root)
    if leader is None:
        return "stopped"
    said = subprocess.run(
        [*enter(leader), "systemctl", "is-system-running"], capture_output=True, text=True, check=False
    ).stdout.strip()
    return said or "starting"


def shell(host: Host, command: list[str]) -> list[str]:
    """The argv that runs `command` (a login shell when empty) in the host."""
    leader = leader_of(host.root)
    if leader is None:
        raise CasemateError(f"{host.name} is not running", cure="appliance lab up")
    return [*enter(leader), *(command or ["/bin/bash", "-l"])]


def enter(leader: int) -> list[str]:
    """The argv that runs what is appended to it in the host whose PID 1 is `leader`, as root."""
    clean = ["HOME=/root", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
    clean += [f"{k}={os.environ[k]}" for k in ("TERM", "LANG") if k in os.environ]
    return ["nsenter", "-t", str(leader), "-a", "--wdns=/root", "env", "-i", *clean]


def _personalise(host: Host, root: Path) -> None:
    (root / "etc/hostname").write_text(f"{host.name}\n")
    (root / "etc/hosts").write_text(f"127.0.0.1 localhost\n::1 localhost ip6-localhost\n{host.ip} {host.name}\n")
    shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")


def _attach_disk(host: Host) -> str:
    if not host.disk.exists():
        with host.disk.open("wb") as disk:
            disk.truncate(host.disk_mib * 1024 * 1024)
    attached = _loops(host)
    if attached:
        return attached[0]
    done = subprocess.run(
        ["losetup", "--find", "--show", str(host.disk)], capture_output=True, text=True, check=False
    )  # fmt: skip
    if done.returncode != 0:
        raise CasemateError(f"no loop device for {host.name}: {done.stderr.strip()}", place=str(host.disk))
    return done.stdout.strip()


def _loops(host: Host) -> list[str]:
    listing = subprocess.run(["losetup", "-n", "-O", "NAME", "-j", str(host.disk)], capture_output=True, text=True)
    return listing.stdout.split()


def _detach_disk(host: Host) -> None:
    for loop in _loops(host):
        subprocess.run(["losetup", "--detach", loop], check=False)
    # the kernel lets go when the last mount namespace of the host is gone, a moment after its processes
    deadline = time.monotonic() + STOP_SECONDS
    while _loops(host) and time.monotonic() < deadline:
        time.sleep(0.1)


def _boot(host: Host, loop: str) -> None:
    argv = [
        "systemd-nspawn", f"--directory={host.root}", "--boot", f"--machine={host.name}",
        "--register=no", "--keep-unit", "--capability=all", "--system-call-filter=@known",
        f"--network-namespace-path=/run/netns/{host.netns}", f"--bind={loop}", "--console=read-only",
    ]  # fmt: skip
    argv += [f"--bind={device}" for device in DEVICES if Path(device).exists()]
    if not Path("/sys/fs/cgroup/cgroup.controllers").exists():
        argv.append("SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1")  # systemd 257 refuses cgroup v1 without it
    prepare = None
    if Path("/run/systemd/system").is_dir():
        # a cgroup of its own that the host may manage, apart from the session that runs us
        scope = ["systemd-run", "--scope", "--quiet", "--collect", "-p", "Delegate=yes"]
        if host.memory_mib:
            scope += ["-p", f"MemoryMax={host.memory_mib}M"]
        argv = [*scope, f"--unit=casemate-lab-{host.name}", *argv]
    else:
        cgroups.make(host)

        def prepare() -> None:
            cgroups.enter(host)

    # with --keep-unit a reboot ends nspawn with 133, and its starter is to start it again
    again = ["/bin/sh", "-c", 'while :; do "$@"; [ $? -eq 133 ] || exit; done', f"casemate-lab-{host.name}"]
    with host.console.open("ab") as console:
        subprocess.Popen(
            [*again, *argv], stdin=subprocess.DEVNULL, stdout=console, stderr=console,
            start_new_session=True, preexec_fn=prepare,
        )  # fmt: skip


def _wait_until_running(host: Host) -> None:
    deadline = time.monotonic() + BOOT_SECONDS
    while time.monotonic() < deadline:
        if state(host) in STATES_UP:
            return
        time.sleep(0.2)
    tail = host.console.read_text(errors="replace").splitlines()[-5:] if host.console.exists() else []
    raise CasemateError(
        f"{host.name} did not boot within {BOOT_SECONDS} s (state: {state(host)}); console: {' | '.join(tail)}",
        place=str(host.console),
        cure=f"appliance lab down {host.name}, then lab up again",
    )


def _wait_gone(host: Host) -> None:
    deadline = time.monotonic() + STOP_SECONDS
    while time.monotonic() < deadline:
        if supervisor_of(host.root) is None and leader_of(host.root) is None:
            return
        time.sleep(0.1)
    raise CasemateError(f"{host.name} does not end (pid {supervisor_of(host.root)})", place=str(host.dir))


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _remove_nspawn_traces(host: Host) -> None:
    """systemd-nspawn, when killed, leaves a lock named after the root's inode and a directory of sockets."""
    run = Path("/run/systemd/nspawn")
    for leftover in ("propagate", "unix-export"):
        shutil.rmtree(run / leftover / host.name, ignore_errors=True)
    if host.root.is_dir():
        root = host.root.stat()
        (run / "locks" / f"inode-{root.st_dev}:{root.st_ino}").unlink(missing_ok=True)
