"""What kind of machine this is."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator

from appliance.node.health import facts
from appliance.node.health.host import Host
from appliance.node.health.registry import Finding, check
from appliance.node.health.settings import Settings

# True: deployed in our own tests. False: written for, not yet run.
SUPPORTED = {("debian", "12"): True, ("debian", "13"): True, ("ubuntu", "24.04"): False}
NAMES = "Debian 12, Debian 13 and (not yet run) Ubuntu 24.04"
OLDEST_PYTHON = (3, 11)
# This release was made after this day, so a clock before it is wrong: 2026-11-01.
RELEASE_DAY = 1793491200
CLOCK_TOLERANCE_SECONDS = 300
LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.IGNORECASE)


@check("distribution", "preflight", "doctor")
def distribution(host: Host, settings: Settings) -> Finding:
    """Packages, their names and their defaults are those of the distributions we know."""
    release = facts.os_release(host)
    name = release.get("PRETTY_NAME", "unknown distribution")
    tried = SUPPORTED.get((release.get("ID", ""), release.get("VERSION_ID", "")))
    if tried is None:
        return Finding(
            ok=False,
            evidence=f"{name} (/etc/os-release: ID={release.get('ID')}, VERSION_ID={release.get('VERSION_ID')})",
            cause="Casemate is built from the distribution's packages and knows only those of " + NAMES,
            cure="install Debian 12 or 13 on this machine, or take the host out of the inventory",
        )
    if not tried:
        return Finding(
            ok=False,
            severity="warning",
            evidence=name,
            cause="the roles are written for it, but nobody has run them there yet",
            cure="use Debian 12 or 13, or go on and report what you see",
        )
    return Finding(ok=True, evidence=name)


@check("architecture", "preflight")
def architecture(host: Host, settings: Settings) -> Finding:
    """The guest's kernel and machine type are chosen for one architecture so far."""
    machine = os.uname().machine
    if machine == "x86_64":
        return Finding(ok=True, evidence=machine)
    return Finding(
        ok=False,
        evidence=machine,
        cause="the microVM runtime is made for x86_64 only",
        cure="use an x86_64 machine",
    )


@check("init", "preflight", "doctor")
def init(host: Host, settings: Settings) -> Finding:
    """Services, pods and mounts are systemd units."""
    first = host.read("/proc/1/comm").strip() or "unknown"
    if first == "systemd" and host.path("/run/systemd/system").is_dir():
        return Finding(ok=True, evidence="systemd is process 1")
    return Finding(
        ok=False,
        evidence=f"process 1 is {first}",
        cause="systemd does not run this machine (a plain container, a chroot or another init)",
        cure="deploy to a machine that booted with systemd; for evaluation: appliance lab up",
    )


@check("python", "preflight")
def python(host: Host, settings: Settings) -> Finding:
    """The node programs need the Python of the oldest supported distribution."""
    evidence = f"Python {sys.version.split()[0]} at {sys.executable}"
    if sys.version_info[:2] >= OLDEST_PYTHON:
        return Finding(ok=True, evidence=evidence)
    return Finding(
        ok=False,
        evidence=evidence,
        cause="the node programs need Python 3.11 or newer",
        cure="apt install python3 on a supported distribution (" + NAMES + ")",
    )


@check("root", "preflight")
def root(host: Host, settings: Settings) -> Finding:
    """Everything after this changes the system."""
    if host.euid() == 0:
        return Finding(ok=True, evidence="running as root")
    return Finding(
        ok=False,
        evidence=f"running as user id {host.euid()}",
        cause="the connection does not end as root",
        cure="set ansible_user: root, or ansible_become: true with a user that may use sudo, for this host",
    )


@check("hostname", "preflight")
def hostname(host: Host, settings: Settings) -> Finding:
    """Units, metrics and backups carry the host's name."""
    name = host.hostname()
    if not all(LABEL.fullmatch(label) for label in name.split(".")):
        return Finding(
            ok=False,
            evidence=repr(name),
            cause="not a valid host name: letters, digits and inner hyphens in labels of at most 63",
            cure="hostnamectl set-hostname NAME",
        )
    if name.split(".")[0] == "localhost":
        return Finding(
            ok=False,
            severity="warning",
            evidence=name,
            cause="the machine was never given a name",
            cure="hostnamectl set-hostname NAME",
        )
    return Finding(ok=True, evidence=name)


@check("clock", "preflight")
def clock(host: Host, settings: Settings) -> Finding:
    """apt and TLS refuse what is signed in their future."""
    now = host.now()
    evidence = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now))
    cure = "timedatectl set-ntp true, or date --utc --set 'YYYY-MM-DD HH:MM:SS'"
    if now < RELEASE_DAY:
        return Finding(ok=False, evidence=evidence, cause="the clock is before this release was made", cure=cure)
    if settings.admin_time is not None and abs(now - settings.admin_time) > CLOCK_TOLERANCE_SECONDS:
        return Finding(
            ok=False,
            severity="warning",
            evidence=f"{evidence}, {now - settings.admin_time:+.0f} s from the admin's machine",
            cause="one of the two clocks is wrong",
            cure=cure,
        )
    return Finding(ok=True, evidence=evidence)


@check("kvm", "preflight", "doctor")
def kvm(host: Host, settings: Settings) -> Finding:
    """Only tells what is there: whether it works is found out by booting a probe guest."""
    there = host.path("/dev/kvm").exists()
    return Finding(
        ok=True,
        severity="info",
        evidence="/dev/kvm is there; a probe guest decides whether it works"
        if there
        else "no /dev/kvm: guests are emulated",
    )


@check("confinement", "preflight", "doctor")
def confinement(host: Host, settings: Settings) -> Iterator[Finding]:
    """Mandatory access control in force, for whoever reads a report."""
    found = []
    if host.path("/sys/kernel/security/apparmor/profiles").exists():
        found.append("AppArmor")
    enforcing = host.read("/sys/fs/selinux/enforce").strip()
    if enforcing:
        found.append("SELinux " + ("enforcing" if enforcing == "1" else "permissive"))
    yield Finding(ok=True, severity="info", evidence=", ".join(found) or "neither AppArmor nor SELinux")
