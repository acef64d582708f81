"""Preflight on a real lab host with six things wrong at once: all are told in one run, and nothing was changed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.lab

HOST = f"preflight{os.getpid() % 1000}"
TOP = Path(__file__).parents[2]

BREAK = """
systemd-run --quiet --unit=squatter python3 -m http.server --bind 0.0.0.0 9090
mount -t tmpfs -o size=100M none /mnt
cp -ax /var/lib/dpkg /mnt/
mkdir /mnt/lib && mv /mnt/dpkg /mnt/lib/
dd if=/dev/zero of=/mnt/fill bs=1M 2>/dev/null
mount --bind /mnt /var
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then mount -o remount,bind,ro /sys/fs/cgroup
else mount -o remount,bind,ro /sys/fs/cgroup/pids; fi
sed 's/^VERSION_ID=.*/VERSION_ID="11"/' /etc/os-release > /run/os-release
mount --bind /run/os-release "$(readlink -f /etc/os-release)"
ip link set eth0 down
"""
LISTING = "find / -xdev -not -path '/root/*' -not -path '/var/*' -not -path /run -printf '%p %s %T@\\n' | sort"


def appliance(*argv, **options):
    return subprocess.run(
        [sys.executable, "-m", "appliance", *argv], cwd=TOP, capture_output=True, text=True, timeout=300, **options
    )


def shell(script):
    done = appliance("lab", "shell", HOST, "--", "sh", "-c", script)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def broken_host():
    up = appliance("lab", "up", "--name", HOST, "--memory", "512")
    assert up.returncode == 0, up.stderr
    try:
        shell(BREAK)
        yield
    finally:
        appliance("lab", "down", HOST)


def test_six_faults_of_a_real_host_are_told_at_once_and_nothing_is_changed(broken_host):
    before = shell(LISTING)
    done = appliance("deploy", "-i", "inventories/lab", "--limit", HOST)
    told = done.stdout + done.stderr
    assert done.returncode == 1, told
    for finding in ("distribution: ", "memory: ", "disk-var: ", "cgroups: ", "network: ", "port-9090: "):
        assert finding in told, told
    assert told.count("cause:") >= 6 and told.count("cure:") >= 6
    assert shell(LISTING) == before
