"""Edge: a node of its cloud with every option on, hardened, and gone again without a trace."""

import time

import yaml

CONFIG = "/etc/kubeedge/config/edgecore.yaml"


def test_edgecore_and_its_broker_run_now_and_at_boot(host):
    for name in ("edgecore", "mosquitto"):
        unit = host.service(name)
        assert unit.is_running, name
        assert unit.is_enabled, name


def test_it_is_the_node_that_the_inventory_names_with_its_options(host):
    modules = yaml.safe_load(host.file(CONFIG).content_string)["modules"]
    assert modules["edged"]["hostnameOverride"] == "node-of-molecule"
    assert modules["edged"]["nodeLabels"] == {"made": "here"}
    assert modules["metaManager"]["metaServer"]["enable"] is True
    assert modules["deviceTwin"] == {"enable": True, "dmiSockPath": "/run/kubeedge/dmi/dmi.sock"}
    assert modules["edged"]["tailoredKubeletConfig"]["enableDebuggingHandlers"] is False


def test_mappers_get_a_directory_that_holds_no_key(host):
    directory = host.file("/run/kubeedge/dmi")
    assert (directory.is_directory, directory.mode, directory.user) == (True, 0o750, "root")


def test_keys_and_configuration_are_for_root_alone(host):
    for path in (CONFIG, "/etc/kubeedge/certs/server.key", "/usr/lib/casemate/edge/current/edgecore"):
        file = host.file(path)
        assert (file.user, file.mode & 0o077) == ("root", 0), path


def test_the_unit_leaves_pods_alone_and_follows_the_engine(host):
    shown = host.check_output("systemctl show -p KillMode,After,UMask edgecore")
    assert "KillMode=process" in shown
    assert "UMask=0077" in shown
    assert "containerd.service" in shown


def test_an_edgecore_that_is_killed_comes_back(host):
    before = host.check_output("systemctl show -P MainPID edgecore")
    host.check_output("systemctl kill -s KILL edgecore")
    deadline = time.monotonic() + 60
    while host.run("systemctl is-active edgecore").stdout.strip() != "active" and time.monotonic() < deadline:
        time.sleep(1)
    assert host.check_output("systemctl show -P MainPID edgecore") not in (before, "0")


def test_without_a_provider_it_goes(host, converge):
    """The last of the scenario's: other scenarios use the host after it."""
    done = converge("--extra-vars", "edge_provider=none")
    assert done.returncode == 0, done.stdout
    for path in ("/etc/kubeedge", "/var/lib/kubeedge", "/usr/lib/casemate/edge", "/etc/casemate/edge.json"):
        assert not host.file(path).exists, path
    assert not host.package("mosquitto").is_installed
    assert host.run("systemctl status edgecore").rc == 4
    host.check_output("systemctl stop standin-cloud standin-server && rm -r /root/standins")
