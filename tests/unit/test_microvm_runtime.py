"""The runtime's command line, as engines and people write it."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from appliance.node.microvm import cpio, image, network, qemu
from appliance.node.microvm.runtime import Call

LAUNCHER = Path(__file__).parents[2] / "appliance/node/bin/casemate-microvm"


def test_an_engines_create_is_taken_apart():
    call = Call(
        [
            "--root",
            "/run/r",
            "--log",
            "/l.json",
            "--log-format",
            "json",
            "--systemd-cgroup",
            "create",
            "--bundle",
            "/b",
            "--pid-file",
            "/p",
            "ID",
        ]
    )
    assert (call.verb, call.id) == ("create", "ID")
    assert call.globals == {"--root": "/run/r", "--log": "/l.json", "--log-format": "json", "--systemd-cgroup": ""}
    assert call.option("--bundle", "-b") == "/b"


def test_options_may_be_written_with_an_equals_sign_and_standard_input_is_a_dash():
    call = Call(["--root=/run/r", "update", "--resources=-", "ID"])
    assert (call.verb, call.id, call.option("--resources")) == ("update", "ID", "-")
    assert Call(["update", "--resources", "-", "ID"]).id == "ID"


def test_a_command_line_without_a_verb_has_none():
    assert Call(["--version"]).verb == ""


@pytest.fixture
def fake_runc(tmp_path):
    runc = tmp_path / "runc"
    runc.write_text('#!/bin/sh\necho "runc $*"\nexit 7\n')
    runc.chmod(0o755)
    return os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}


def run(argv, environment):
    return subprocess.run([str(LAUNCHER), *argv], env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("argv", [
    "--root /r state ID", "--root=/r --log /l --log-format json kill ID 15", "--version", "features",
    "ps --format json ID", "--systemd-cgroup state ID", "--root state --log kill list", "kill ID SIGCONT",
])  # fmt: skip
def test_what_is_runcs_alone_is_left_to_runc_with_its_exit_code(fake_runc, argv):
    done = run(argv.split(), fake_runc)
    assert (done.stdout, done.returncode) == (f"runc {argv}\n", 7)


@pytest.mark.parametrize("argv", ["state ID", "--root /r kill ID 9", "--log state --systemd-cgroup state ID"])
def test_what_is_asked_often_does_not_start_python(fake_runc, tmp_path, argv):
    python = tmp_path / "python3"
    python.write_text("#!/bin/sh\nexit 99\n")
    python.chmod(0o755)
    launcher = tmp_path / "launcher"
    launcher.write_text(LAUNCHER.read_text().replace("/usr/bin/python3", str(python)))
    done = subprocess.run(["sh", launcher, *argv.split()], env=fake_runc, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == (f"runc {argv}\n", 7)
    for other in ("--root state delete kill", "kill ID 19", "--root /r kill --all ID SIGSTOP"):
        assert subprocess.run(["sh", launcher, *other.split()], env=fake_runc).returncode == 99


def test_a_refusal_is_in_the_log_that_the_engine_reads(fake_runc, tmp_path):
    bundle, log = tmp_path / "bundle", tmp_path / "log.json"
    bundle.mkdir()
    (bundle / "config.json").write_text('{"annotations": {}}')
    done = run(["--log", str(log), "--log-format", "json", "create", "--bundle", str(bundle), "ID"], fake_runc)
    entry = json.loads(log.read_text())
    assert done.returncode == 1
    assert entry["level"] == "error" and "belongs to no pod" in entry["msg"]


def test_a_pod_whose_sandbox_has_no_id_is_refused_before_its_path_is_touched(fake_runc, tmp_path):
    annotations = {"io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.sandbox-id": "../x"}
    (tmp_path / "config.json").write_text(json.dumps({"annotations": annotations}))
    done = run(["create", "--bundle", str(tmp_path), "ID"], fake_runc)
    assert done.returncode == 1 and "'../x' is no id" in done.stderr


def test_verbs_that_would_lose_the_guest_are_refused(fake_runc):
    done = run(["checkpoint", "ID"], fake_runc)
    assert done.returncode == 1 and "checkpoint" in done.stderr


def test_the_guests_archive_is_what_cpio_reads(tmp_path):
    writer = cpio.Writer()
    writer.directory("d")
    writer.file("d/f", b"content", 0o755)
    first = writer.end()
    second = cpio.Writer()
    second.file("g", b"more")
    assert len(first) % 512 == 0, "an archive that follows uncompressed must be aligned"
    for archive, names in ((first, ["d", "d/f"]), (second.end(), ["g"])):
        listed = subprocess.run(["cpio", "-it", "--quiet"], input=archive, capture_output=True, check=True)
        assert listed.stdout.decode().split() == names


def test_modules_load_after_what_they_need(tmp_path, monkeypatch):
    (tmp_path / "modules.builtin").write_text("kernel/virtio.ko\n")
    (tmp_path / "a.ko").write_bytes(b"\0depends=b-c,virtio\0softdep=pre: crc\0")
    (tmp_path / "b_c.ko").write_bytes(b"\0depends=\0")
    (tmp_path / "crc_generic.ko").write_bytes(b"\0depends=\0")
    monkeypatch.setattr(image, "MODULES", ("a",))
    assert list(image._modules(tmp_path)) == ["b_c", "crc_generic", "a"]


def test_routes_that_follow_from_addresses_are_left_out_and_gateways_come_last():
    routes = [
        {"dst": "default", "gateway": "10.0.0.1", "dev": "eth0"},
        {"dst": "10.0.0.0/24", "protocol": "kernel", "scope": "link"},
        {"dst": "10.9.0.0/16", "scope": "link"},
    ]
    assert [r["dst"] for r in network._routes(routes)] == ["10.9.0.0/16", "default"]


@pytest.mark.parametrize(
    ("version", "expected"), [("7.2.22 (Debian)", False), ("8.1.5", False), ("8.2.0", True), ("10.0.2", True)]
)
def test_old_qemus_need_a_writable_template(version, expected):
    assert qemu.private_memory_read_only(version) is expected
