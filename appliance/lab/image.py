"""The base root file system of lab hosts, made once per release by mmdebstrap and kept in a cache.

The packages come from where this machine takes its own (`apt-get indextargets`), so that a lab works behind any
mirror or proxy that the machine works behind, and the hosts trust the certificates that the machine trusts.
"""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from appliance.errors import CasemateError, UsageError
from appliance.lab import state

RELEASES = {"bookworm": "Debian 12", "trixie": "Debian 13"}
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")

# What a minimal cloud image of Debian has and we rely on; python3 is what Ansible needs of any host.
PACKAGES = ["systemd", "systemd-sysv", "dbus", "python3", "iproute2", "procps", "ca-certificates", "sudo"]  # fmt: skip

# What only a lab host needs: a machine's own init does these before we meet it.
# cgroup v1 controllers and the network's settings arrive read-only in a container, and its mounts do not propagate.
LAB_UNIT = """\
[Unit]
Description=Make this lab host's cgroups and mounts like a machine's
DefaultDependencies=no
Before=sysinit.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/mount --make-rshared /
ExecStart=/bin/mount --bind /proc/sys/net /proc/sys/net
ExecStart=/bin/mount -o remount,bind,rw /proc/sys/net
ExecStart=/bin/sh -c 'for m in /sys/fs/cgroup/*/; do mountpoint -q "$m" && mount -o remount,bind,rw "$m" || :; done'

[Install]
WantedBy=sysinit.target
"""


def base_root(release: str, progress: Callable[[str], None]) -> Path:
    """The cached base of `release`, made if it is missing (about 40 s).

    A killed run leaves only a directory that the next one removes. Raises UsageError for an unknown release,
    CasemateError with mmdebstrap's own last words when it fails.
    """
    if release not in RELEASES:
        raise UsageError(f"unknown release {release!r}", cure=f"one of: {', '.join(RELEASES)}")
    sources = apt_sources(release)
    recipe = "\n".join([*PACKAGES, *sources, LAB_UNIT, _trust_fingerprint()])
    key = hashlib.sha256(recipe.encode()).hexdigest()[:12]
    base = state.cache_dir() / f"{release}-{key}"
    if base.is_dir():
        return base
    progress(f"making the base image of {RELEASES[release]} (once; about 40 s)")
    for old in state.cache_dir().glob(f"{release}-*"):
        shutil.rmtree(old)
    making = state.cache_dir() / f"{release}-{key}.making"
    making.mkdir(parents=True)
    argv = ["mmdebstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", "--skip=cleanup/apt/lists"]
    argv += [f"--aptopt={line}" for line in _apt_proxy_options()]
    # without sources of this machine's to follow, mmdebstrap's own default mirror serves
    argv += [release, str(making)] + (["-"] if sources else [])
    done = subprocess.run(argv, input="\n".join(sources), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        shutil.rmtree(making)
        raise CasemateError(
            f"mmdebstrap could not make {release}: {_last_words(done.stderr)}",
            place=str(base),
            cure="check that this machine's own 'apt-get update' works",
        )
    _finish(making)
    making.rename(base)
    return base


def apt_sources(release: str) -> list[str]:
    """One-line apt sources for `release`, from the mirrors of this machine; empty where it is no Debian."""
    listing = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(ORIGIN)|$(LABEL)|$(REPO_URI)", "Created-By: Packages"],
        capture_output=True, text=True, check=False,
    ).stdout  # fmt: skip
    main = security = None
    for line in listing.splitlines():
        origin, label, uri = line.split("|")
        if origin == "Debian" and label == "Debian":
            main = uri
        elif origin == "Debian" and label == "Debian-Security":
            security = uri
    lines = [f"deb {main} {release} main", f"deb {main} {release}-updates main"] if main else []
    return lines + ([f"deb {security} {release}-security main"] if security and main else [])


def _finish(root: Path) -> None:
    unit = root / "etc/systemd/system/casemate-lab-host.service"
    unit.write_text(LAB_UNIT)
    wants = root / "etc/systemd/system/sysinit.target.wants"
    wants.mkdir(exist_ok=True)
    (wants / unit.name).symlink_to(f"../{unit.name}")
    for masked in ("systemd-modules-load.service", "systemd-firstboot.service"):
        (root / "etc/systemd/system" / masked).symlink_to("/dev/null")
    (root / "etc/machine-id").write_text("")
    # the base is the same for all: what belongs to one host is written when it is made
    (root / "etc/resolv.conf").unlink(missing_ok=True)
    (root / "etc/hostname").unlink(missing_ok=True)
    if CERTIFICATES.exists():
        shutil.copy(CERTIFICATES, root / CERTIFICATES.relative_to("/"))
        if own := os.environ.get("PIP_CERT"):
            shutil.copy(own, root / CERTIFICATES.relative_to("/"))
            # pip brings certificates of its own unless told otherwise
            (root / "etc/pip.conf").write_text(f"[global]\ncert = {CERTIFICATES}\n")


def _trust_fingerprint() -> str:
    return hashlib.sha256(CERTIFICATES.read_bytes()).hexdigest() if CERTIFICATES.exists() else ""


def _apt_proxy_options() -> list[str]:
    dump = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=False).stdout
    return [line for line in dump.splitlines() if line.startswith("Acquire::") and "proxy" in line.lower()]


def _last_words(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return "; ".join(lines[-3:])
