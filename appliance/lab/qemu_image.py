"""The base of QEMU lab hosts: the lab's base root file system with a kernel and an ssh server, as a disk image.

Made once per release (about a minute) and kept in the cache beside the root file system that it grows from.
"""

import hashlib
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from appliance.errors import CasemateError
from appliance.lab import image, state
from appliance.processes import die_with_parent

ROOT_GIB = 16  # sparse: only what is written takes room
PACKAGES = ["linux-image-amd64", "openssh-server", "udev", "zstd"]

# The initramfs has only what such a machine boots with: unpacking Debian's usual 40 MB takes long when emulated.
INITRAMFS = {
    "etc/initramfs-tools/conf.d/casemate-lab": "MODULES=list\nCOMPRESS=zstd\n",
    "etc/initramfs-tools/modules": "virtio_pci\nvirtio_blk\next4\n",
}
ENABLED = {"systemd-networkd.service": "multi-user.target.wants"}
# Timers that would start apt while a test is running.
MASKED = ("apt-daily.timer", "apt-daily-upgrade.timer", "e2scrub_reap.service")


@dataclass(frozen=True)
class Base:
    """The three files a host boots from; `disk` is a raw ext4 file system to copy."""

    kernel: Path
    initrd: Path
    disk: Path


def base(release: str, progress: Callable[[str], None]) -> Base:
    """The cached base of `release`, made if it is missing. Raises CasemateError with apt's last words if it fails."""
    root = image.base_root(release, progress)
    recipe = "\n".join([*PACKAGES, *INITRAMFS.values(), *ENABLED, *MASKED, str(ROOT_GIB)])
    # The prefix is the root's name: when that is made anew, this goes with it.
    made = state.cache_dir() / f"{root.name}-qemu-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
    result = Base(made / "vmlinuz", made / "initrd.img", made / "root.ext4")
    if made.is_dir():
        return result
    progress(f"making the disk image of {image.RELEASES[release]} with its kernel (once; about a minute)")
    for old in state.cache_dir().glob(f"{root.name}-qemu-*"):
        shutil.rmtree(old)
    making = made.with_name(made.name + ".making")
    making.mkdir(parents=True)
    tree = making / "tree"
    subprocess.run(["cp", "-a", "--reflink=auto", str(root), str(tree)], check=True, preexec_fn=die_with_parent)
    _install(tree)
    for name in ("vmlinuz", "initrd.img"):
        shutil.copy(tree / name, making / name)
    disk = making / "root.ext4"
    with disk.open("wb") as file:
        file.truncate(ROOT_GIB * 1024**3)
    _run(["mke2fs", "-q", "-t", "ext4", "-L", "casemate-lab", "-d", str(tree), str(disk)], disk)
    shutil.rmtree(tree)
    making.rename(made)
    return result


def write_files(disk: Path, files: dict[str, tuple[str, int]], scratch: Path) -> None:
    """Write files (path to text and mode, owned by root) into an ext4 image that is not mounted."""
    scratch.mkdir(mode=0o700, exist_ok=True)
    commands = []
    for number, (path, (text, mode)) in enumerate(files.items()):
        source = scratch / str(number)
        source.touch(mode=0o600)
        source.write_text(text)
        source.chmod(mode)
        # A directory that is there already, or a file that is not yet, makes debugfs grumble and go on.
        commands += [f"mkdir {Path(path).parent}", f"rm {path}", f"write {source} {path}"]
    commands += [f"stat {path}" for path in files]
    done = subprocess.run(
        ["debugfs", "-w", "-f", "-", str(disk)], input="\n".join(commands), capture_output=True, text=True, check=False
    )
    shutil.rmtree(scratch)
    if done.returncode != 0 or done.stdout.count("Type: regular") != len(files):
        raise CasemateError(f"debugfs could not write into the image: {done.stderr.strip()}", place=str(disk))


def _install(tree: Path) -> None:
    """Add kernel and ssh server to the tree with the tree's own apt."""
    shutil.copy("/etc/resolv.conf", tree / "etc/resolv.conf")
    for path, text in INITRAMFS.items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_text(text)
    # A mount namespace and a /proc of its own, which go with the process; and that goes when we are killed.
    enter = [
        "setpriv",
        "--pdeathsig",
        "KILL",
        "unshare",
        "--kill-child",
        "--mount",
        "--pid",
        "--fork",
        f"--mount-proc={tree / 'proc'}",
        "chroot",
        str(tree),
    ]
    options = ["-y", "-q", "--no-install-recommends", "-o", "Dpkg::Options::=--force-confold"]
    environment = ["env", "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C.UTF-8"]
    _run([*enter, *environment, "apt-get", "update", "-q"], tree)
    _run([*enter, *environment, "apt-get", "install", *options, *PACKAGES], tree)
    _run([*enter, "apt-get", "clean"], tree)
    for key in (tree / "etc/ssh").glob("ssh_host_*"):
        key.unlink()  # each host gets its own
    units = tree / "etc/systemd/system"
    (units / "systemd-modules-load.service").unlink(missing_ok=True)  # masked only where the kernel is another's
    for unit, target in ENABLED.items():
        (units / target).mkdir(exist_ok=True)
        (units / target / unit).unlink(missing_ok=True)
        (units / target / unit).symlink_to(f"/lib/systemd/system/{unit}")
    for unit in MASKED:
        (units / unit).unlink(missing_ok=True)
        (units / unit).symlink_to("/dev/null")


def _run(argv: list[str], place: Path) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise CasemateError(
            f"{' '.join(argv[:1])} could not make the disk image: {'; '.join(lines[-3:])}",
            place=str(place),
            cure="check that this machine's own 'apt-get update' works, then `appliance lab up` again",
        )
