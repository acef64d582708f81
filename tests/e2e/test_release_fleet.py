"""A release over three hosts, of which the first is sick: it stops there, and goes on once that is cured."""

import json

import pytest

from tests.conftest import appliance, inside, on_host

pytestmark = [pytest.mark.lab, pytest.mark.full]


@pytest.fixture(scope="module")
def fleet(new_host, tmp_path_factory):
    """Three hosts at one lock, and a second lock in which one package is newer."""
    hosts = [new_host(tag) for tag in ("f1", "f2", "f3")]
    directory = tmp_path_factory.mktemp("fleet")
    (directory / "extra.yml").write_text("appliance:\n  vars:\n    base_packages: [casemate-test-part]\n")
    locks = []

    def run(verb, *words):
        limit = ",".join(host.name for host in hosts)
        return appliance(verb, "-i", "inventories/lab", "-i", str(directory / "extra.yml"), "--limit", limit, *words)

    for version in ("1", "2"):
        for host in hosts:
            inside(host, "package", "casemate-test-part", version, "{}")
        lock = directory / f"{version}.lock"
        made = run("lock", "--output", str(lock))
        assert made.returncode == 0, made.stdout + made.stderr
        locks.append(lock)
        if version == "1":
            deployed = run("deploy", "--lock", str(lock))
            assert deployed.returncode == 0, deployed.stderr
    return hosts, run, locks[1]


def states(done) -> list[str]:
    return [host["state"] for host in json.loads(done.stdout.splitlines()[-1])["hosts"]]


def versions(hosts) -> list[str]:
    shown = ["dpkg-query", "--show", "--showformat=${Version}", "casemate-test-part"]
    return [on_host(host, *shown) for host in hosts]


def test_a_sick_canary_stops_it_and_after_the_cure_the_same_command_goes_on(fleet):
    hosts, run, lock = fleet
    on_host(hosts[0], "systemctl", "stop", "prometheus-node-exporter")
    stopped = run("upgrade", "--lock", str(lock), "--yes", "--grace", "0", "-o", "json")
    assert (stopped.returncode, states(stopped)) == (1, ["refused", "not reached", "not reached"]), stopped.stdout
    assert "prometheus-node-exporter" in stopped.stdout
    assert versions(hosts) == ["1", "1", "1"]
    on_host(hosts[0], "systemctl", "start", "prometheus-node-exporter")
    on_host(hosts[2], "systemctl", "stop", "prometheus-node-exporter")
    last = run("upgrade", "--lock", str(lock), "--yes", "--grace", "0", "-o", "json")
    assert (last.returncode, states(last)) == (1, ["upgraded", "upgraded", "refused"]), last.stdout
    assert versions(hosts) == ["2", "2", "1"]
    on_host(hosts[2], "systemctl", "start", "prometheus-node-exporter")
    resumed = run("upgrade", "--lock", str(lock), "--yes", "--grace", "0", "-o", "json")
    assert (resumed.returncode, states(resumed)) == (0, ["ok", "ok", "upgraded"]), resumed.stdout
    assert versions(hosts) == ["2", "2", "2"]
