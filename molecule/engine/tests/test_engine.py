"""Engine: containerd of the distribution, microVMs by default, nothing reachable from outside."""

import json
import tomllib


def test_the_engine_runs_now_and_at_boot(host):
    unit = host.service("containerd")
    assert unit.is_running
    assert unit.is_enabled


def test_the_running_engine_took_the_configuration(host):
    """`config dump` reads the file again; the metrics address is only there once the engine was restarted with it."""
    written = tomllib.loads(host.file("/etc/containerd/config.toml").content_string)
    assert host.socket(f"tcp://{written['metrics']['address']}").is_listening


def test_pods_get_a_microvm_unless_they_name_another_runtime(host):
    cri = tomllib.loads(host.check_output("containerd config dump"))["plugins"]["io.containerd.grpc.v1.cri"]
    handlers = cri["containerd"]
    assert handlers["default_runtime_name"] == "microvm"
    assert set(handlers["runtimes"]) >= {"microvm", "runc"}
    binary = handlers["runtimes"]["microvm"]["options"]["BinaryName"]
    assert host.file(binary).mode == 0o755
    assert json.loads(host.file("/etc/casemate/engine.json").content_string)["default_handler"] == "microvm"


def test_the_engine_listens_on_loopback_only(host):
    lines = host.check_output("ss -Hltnp | grep containerd || true").splitlines()
    assert lines, "containerd listens nowhere: its metrics are missing"
    addresses = [line.split()[3].rpartition(":")[0] for line in lines]
    assert all(a in ("127.0.0.1", "[::1]") for a in addresses), lines


def test_the_engines_socket_is_for_root_alone(host):
    socket = host.file("/run/containerd/containerd.sock")
    assert socket.user == "root"
    assert socket.mode & 0o007 == 0


def test_the_pause_image_needs_no_registry(host):
    names = host.check_output("ctr --namespace k8s.io images list --quiet").splitlines()
    assert "localhost/casemate/pause:1" in names


def test_forwarding_stays_on_when_settings_are_read_again(host):
    assert host.sysctl("net.ipv4.ip_forward") in (0, 1)
    host.check_output("sysctl --load /etc/sysctl.d/60-casemate-engine.conf")
    assert host.sysctl("net.ipv4.ip_forward") == 1
