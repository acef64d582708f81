"""Lab hosts of the kind qemu: their command line, their disks, and the question whether KVM works."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from appliance.errors import CasemateError
from appliance.lab import accelerator, manage, qemu, qemu_image
from appliance.lab.state import Host

HOST = Host("h1", "qemu", "bookworm", 3, 64)
BASE = qemu_image.Base(Path("/b/vmlinuz"), Path("/b/initrd.img"), Path("/b/root.ext4"))


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A QEMU that does what the test says, and a cache of its own; returns a function that sets what it does."""
    monkeypatch.setenv("CASEMATE_LAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/sbin:/usr/bin:/sbin:/bin")
    monkeypatch.setattr(accelerator.os, "access", lambda *_args: True)
    program = tmp_path / "qemu-system-x86_64"

    def behave(script: str) -> None:
        program.write_text(f"#!/bin/sh\necho asked >> {tmp_path}/log\n{script}\n")
        program.chmod(0o755)

    behave.asked = lambda: (tmp_path / "log").read_text().count("asked")
    return behave


def test_kvm_works_when_the_probe_guest_ends(machine):
    machine("exit 0")
    assert accelerator.kvm_works(Path("/kernel")) is True


def test_kvm_does_not_work_when_the_probe_guest_hangs(machine, monkeypatch):
    machine("exec sleep 60")
    monkeypatch.setattr(accelerator, "PROBE_SECONDS", 0.2)
    assert accelerator.kvm_works(Path("/kernel")) is False


def test_kvm_does_not_work_when_qemu_fails(machine):
    machine("exit 1")
    assert accelerator.kvm_works(Path("/kernel")) is False


def test_answer_about_kvm_is_remembered_until_the_machine_changes(machine, tmp_path):
    machine("exit 1")
    assert accelerator.kvm_works(Path("/kernel")) is False
    machine("exit 0")
    assert accelerator.kvm_works(Path("/kernel")) is False
    assert machine.asked() == 1
    (tmp_path / "cache/kvm.json").write_text(json.dumps({"machine": "another", "works": False}))
    assert accelerator.kvm_works(Path("/kernel")) is True


def test_emulated_host_has_one_cpu_with_nested_virtualisation():
    argv = qemu.boot_argv(HOST, BASE, kvm=False)
    assert argv[argv.index("-smp") + 1] == "1"
    assert argv[argv.index("-cpu") + 1] == "max,+svm"


def test_host_with_kvm_has_the_machine_s_cpus(monkeypatch):
    monkeypatch.setattr(qemu.os, "cpu_count", lambda: 6)
    argv = qemu.boot_argv(HOST, BASE, kvm=True)
    assert argv[argv.index("-smp") + 1] == "6"
    assert argv[argv.index("-accel") + 1] == "kvm"


def test_memory_limit_is_the_machine_s_memory():
    argv = qemu.boot_argv(Host("h1", "qemu", "bookworm", 1, 64, 700), BASE, kvm=False)
    assert argv[argv.index("-m") + 1] == "700"


@pytest.mark.skipif(shutil.which("mke2fs", path="/usr/sbin:/sbin") is None, reason="needs e2fsprogs")
def test_files_are_written_into_an_image_that_is_not_mounted(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
    disk, tree = tmp_path / "disk", tmp_path / "tree"
    (tree / "etc").mkdir(parents=True)
    (tree / "etc/hostname").write_text("before")
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", str(tree), str(disk), "8M"], check=True)
    files = {"/etc/hostname": ("h1\n", 0o644), "/root/.ssh/authorized_keys": ("key\n", 0o600)}
    with pytest.raises(CasemateError):  # a parent's parent is missing: said, not passed over
        qemu_image.write_files(disk, files, tmp_path / "scratch")
    files["/root/key"] = files.pop("/root/.ssh/authorized_keys")
    qemu_image.write_files(disk, files, tmp_path / "scratch")

    def debugfs(command: str) -> str:
        return subprocess.run(["debugfs", "-R", command, str(disk)], capture_output=True, text=True, check=True).stdout

    assert debugfs("cat /etc/hostname") == "h1\n"
    assert "Mode:  0600" in debugfs("stat /root/key")
    assert not (tmp_path / "scratch").exists(), "private keys must not stay behind"


@pytest.mark.lab
@pytest.mark.full
def test_qemu_host_boots_its_own_kernel_and_leaves_nothing():
    def traces(name: str) -> list[str]:
        links = subprocess.run(["ip", "-br", "link"], capture_output=True, text=True, check=True).stdout
        return [line for line in links.splitlines() if name in line.split()]

    try:
        host = manage.up(["qtest"], kind="qemu", disk_mib=64)[0]
        assert traces(host.interface), "a probe that finds nothing finds nothing left, too"
        kernel = subprocess.run(manage.shell("qtest", ["uname", "-r"]), capture_output=True, text=True, check=True)
        assert kernel.stdout.strip() != Path("/proc/sys/kernel/osrelease").read_text().strip()
        failed = subprocess.run(manage.shell("qtest", ["sh", "-c", "exit 7"]), check=False)
        assert failed.returncode == 7
    finally:
        manage.down(["qtest"])
    assert traces(host.interface) == []
    left = subprocess.run(["pgrep", "-f", str(host.dir)], capture_output=True, text=True, check=False).stdout
    assert left == ""
