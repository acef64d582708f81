"""Monitoring: Prometheus on loopback, scraping the host and its engine."""

import json
import time

import pytest

PROMETHEUS = "http://127.0.0.1:9191"


def fetch(host, path: str) -> dict:
    """Prometheus' answer, read with the host's own Python: a bare host has no curl."""
    program = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1], timeout=10).read().decode())"
    return json.loads(host.check_output("python3 -c %s %s", program, PROMETHEUS + path))


@pytest.mark.parametrize("unit", ["prometheus", "prometheus-node-exporter"])
def test_each_service_runs_now_and_at_boot(host, unit):
    assert host.service(unit).is_running
    assert host.service(unit).is_enabled


def test_nothing_listens_beyond_loopback(host):
    lines = host.check_output("ss -Hltnp | grep prometheus || true").splitlines()
    ports = {line.split()[3].rpartition(":")[2] for line in lines}
    assert {"9191", "9100"} <= ports, lines
    assert all(line.split()[3].rpartition(":")[0] in ("127.0.0.1", "[::1]") for line in lines), lines


def test_the_configuration_is_valid_and_in_force(host):
    host.check_output("promtool check config /etc/prometheus/prometheus.yml")
    running = fetch(host, "/api/v1/status/config")["data"]["yaml"]
    assert "127.0.0.1:1338" in running


def test_the_host_and_the_engine_are_scraped(host):
    deadline = time.monotonic() + 60
    while True:
        targets = fetch(host, "/api/v1/targets")["data"]["activeTargets"]
        health = {t["labels"]["job"]: t["health"] for t in targets}
        if set(health.values()) == {"up"} or time.monotonic() > deadline:
            break
        time.sleep(2)
    assert len(health) >= 3
    assert set(health.values()) == {"up"}, [(t["labels"], t["lastError"]) for t in targets]


def test_samples_are_for_prometheus_alone_to_read(host):
    directory = host.file("/var/lib/prometheus/metrics2")
    assert directory.user == "prometheus"
    assert directory.mode & 0o002 == 0
