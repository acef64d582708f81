"""Monitoring: Prometheus on loopback, scraping the host and its engine."""

import json
import time

import pytest


@pytest.fixture(scope="module")
def prometheus(fetch):
    """Asks Prometheus' API for a path; returns its data."""
    return lambda path: json.loads(fetch(f"http://127.0.0.1:9191/api/v1/{path}"))["data"]


@pytest.mark.parametrize("unit", ["prometheus", "prometheus-node-exporter"])
def test_each_service_runs_now_and_at_boot(host, unit):
    assert host.service(unit).is_running
    assert host.service(unit).is_enabled


def test_nothing_listens_beyond_loopback(host):
    lines = host.check_output("ss -Hltnp | grep prometheus || true").splitlines()
    ports = {line.split()[3].rpartition(":")[2] for line in lines}
    assert {"9191", "9100"} <= ports, lines
    assert all(line.split()[3].rpartition(":")[0] in ("127.0.0.1", "[::1]") for line in lines), lines


def test_the_configuration_is_valid_and_in_force(host, prometheus):
    host.check_output("promtool check config /etc/prometheus/prometheus.yml")
    assert "127.0.0.1:1338" in prometheus("status/config")["yaml"]


def test_the_host_and_the_engine_are_scraped(prometheus):
    deadline = time.monotonic() + 60
    while True:
        targets = prometheus("targets")["activeTargets"]
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
