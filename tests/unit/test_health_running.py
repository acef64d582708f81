"""Doctor and status: what they say of a deployed host."""

import json

import pytest
from health_fakes import FakeHost, bare, errors, found

from appliance.node.health import services, status
from appliance.node.health.host import Result
from appliance.node.health.settings import Settings

PROMETHEUS = "http://127.0.0.1:9090"
NODE = "http://127.0.0.1:9100"
BIN = Settings().bin
SETTINGS = {"units": ["containerd.service"], "prometheus_url": PROMETHEUS, "node_exporter_url": NODE}
MICROVM = {
    "current": True,
    "missing": [],
    "image": {"key": "k", "guest_kernel": "6.1.0-40-amd64"},
    "accelerator": "tcg",
}
POD = {
    "name": "demo",
    "namespace": "default",
    "runtime": "microvm",
    "ready": True,
    "state": "running",
    "ip": "10.86.0.2",
    "restarts": 1,
    "sandbox_id": "abc",
    "reason": "",
}


@pytest.fixture
def host(tmp_path) -> FakeHost:
    """A deployed host that is well, with one pod."""
    host = bare(tmp_path)
    host.write("/etc/casemate/release.json", json.dumps({"release": "0.1.0"}))
    host.write("/var/lib/casemate/pool/volumes/x", "")
    for name in ("casemate-pod", "casemate-microvm"):
        host.write(f"{BIN}/{name}", "")
    active = "LoadState=loaded\nActiveState=active\nSubState=running\nResult=success\n"
    host.programs.update(
        {
            "systemctl show": Result(0, active),
            "systemctl list-units": Result(0),
            "ctr ": Result(0, "Client:\n  Version: 1.6.19\n\nServer:\n  Version:  1.6.20~ds1\n  Revision: x\n"),
            "runc --version": Result(0, "runc version 1.1.5+ds1\n"),
            "qemu-system-x86_64 --version": Result(0, "QEMU emulator version 7.2.17 (Debian 1:7.2)\n"),
        }
    )
    answer(host, "casemate-pod list -o json", [POD])
    answer(host, "casemate-pod check -o json", [])
    answer(host, "casemate-microvm status", MICROVM)
    answer(host, "casemate-microvm sandbox-info abc", {"guest_kernel": "6.1.0-40-amd64"})
    targets(host, node="up", prometheus="up")
    host.pages[f"{PROMETHEUS}/metrics"] = 'prometheus_build_info{branch="x",version="2.42.0+ds"} 1\n'
    return host


def answer(host, command, given):
    host.programs[f"{host.path(BIN)}/{command}"] = Result(0, json.dumps(given))


def targets(host, **health):
    host.pages[f"{PROMETHEUS}/api/v1/targets?state=active"] = json.dumps(
        {
            "data": {
                "activeTargets": [
                    {"labels": {"job": job}, "scrapeUrl": "http://x", "health": word, "lastError": "refused"}
                    for job, word in health.items()
                ]
            }
        }
    )


def test_a_well_host_is_ok_and_has_the_shape_of_the_design(host):
    given = status.gather(host, Settings(**SETTINGS))
    assert (given["release"], given["health"]) == ("0.1.0", "ok")
    assert given["pods"] == [
        {
            "name": "demo",
            "runtime": "microvm",
            "ready": True,
            "ip": "10.86.0.2",
            "guest_kernel": "6.1.0-40-amd64",
            "restarts": 1,
            "outdated": False,
        }
    ]
    versions = {one["name"]: one["version"] for one in given["components"]}
    assert versions["containerd"] == "1.6.20~ds1"  # the server's, not the client's
    assert (versions["runc"], versions["qemu"], versions["prometheus"]) == ("1.1.5+ds1", "7.2.17", "2.42.0+ds")
    assert all({"name", "version", "state"} <= set(one) for one in given["components"])


def test_a_prometheus_after_a_clock_that_was_set_back_is_told_from_one_that_cannot_scrape(host):
    page = json.loads(host.pages[f"{PROMETHEUS}/api/v1/targets?state=active"])
    page["data"]["activeTargets"][0] |= {"health": "down", "lastError": "out of bounds"}
    host.pages[f"{PROMETHEUS}/api/v1/targets?state=active"] = json.dumps(page)
    (one,) = [one for one in found(host, "prometheus", "doctor", **SETTINGS) if not one["ok"]]
    assert "clock was set back" in one["cause"] and "restart prometheus" in one["cure"]


def test_a_bare_host_is_not_deployed(tmp_path):
    assert status.gather(bare(tmp_path), Settings())["health"] == "not deployed"


def test_a_half_deployed_host_is_failed(host):
    host.path("/etc/casemate/release.json").unlink()
    host.programs["ctr "] = Result(1, err="ctr: failed to dial")
    given = status.gather(host, Settings(**SETTINGS))
    assert given["health"] == "failed" and given["release"] is None


def test_a_pod_that_is_not_ready_degrades_and_its_reason_is_the_cause(host):
    answer(host, "casemate-pod list -o json", [{**POD, "ready": False, "state": "exited", "reason": "exit code 3"}])
    assert errors(host, "doctor", **SETTINGS) == ["pod-demo"]
    assert found(host, "pod", "doctor")[0]["cause"] == "exit code 3"
    assert status.gather(host, Settings(**SETTINGS))["health"] == "degraded"


def test_a_manifest_that_cannot_be_run_is_a_finding_with_its_file(host):
    wrong = {"file": "/etc/casemate/pods/a\nb.yaml", "problems": ["spec: is required", "x: is no field"]}
    answer(host, "casemate-pod check -o json", [wrong])
    (finding,) = found(host, "manifest", "doctor")
    assert (finding["id"], finding["ok"]) == ("manifest-'a\\nb.yaml'", False)
    assert finding["evidence"] == "spec: is required; x: is no field"


def test_a_pod_under_runc_has_no_guest_kernel(host):
    answer(host, "casemate-pod list -o json", [{**POD, "runtime": "runc"}])
    assert status.gather(host, Settings())["pods"][0]["guest_kernel"] is None


def test_a_guest_that_does_not_answer_has_no_kernel_and_breaks_nothing(host):
    host.programs[f"{host.path(BIN)}/casemate-microvm sandbox-info"] = Result(1, err="no such sandbox")
    assert status.gather(host, Settings(**SETTINGS))["pods"][0]["guest_kernel"] is None


def test_an_engine_that_does_not_answer_fails_the_host(host):
    host.programs["ctr "] = Result(124, err="ctr: no answer within 10 s")
    assert errors(host, "doctor", **SETTINGS) == ["engine"]
    assert status.gather(host, Settings(**SETTINGS))["health"] == "failed"


def test_a_stopped_service_is_named_with_its_journal(host):
    host.programs["systemctl show"] = Result(
        0, "LoadState=loaded\nActiveState=failed\nSubState=failed\nResult=exit-code\n"
    )
    [one] = found(host, "unit", "doctor", units=["containerd.service"])
    assert one["id"] == "unit-containerd" and "journalctl -u containerd.service" in one["cure"]


def test_a_target_that_is_down_is_told_one_not_yet_scraped_is_not(host):
    targets(host, containerd="down", node="unknown")
    assert errors(host, "doctor", **SETTINGS) == ["prometheus-containerd"]


def test_a_silent_prometheus_is_one_finding(host):
    host.pages.clear()
    assert errors(host, "doctor", **SETTINGS) == ["prometheus"]


@pytest.mark.parametrize(("address", "bad"), [("00000000", ["exposed-9090"]), ("0100007F", [])])
def test_a_service_that_listens_wider_than_told_is_an_error(host, address, bad):
    host.write("/proc/net/tcp", f"head\n 0: {address}:2382 00000000:0000 0A 0:0 0:0 0 0 0 5 1\n")
    assert errors(host, "doctor", **SETTINGS) == bad


def test_a_guest_image_that_is_not_current_fails_the_host_naming_what_is_missing(host):
    answer(host, "casemate-microvm status", {**MICROVM, "current": False, "missing": ["image", "template small"]})
    [one] = found(host, "microvm", "doctor")
    assert not one["ok"] and "image, template small" in one["evidence"]
    given = status.gather(host, Settings(**SETTINGS))
    assert given["health"] == "failed"
    assert {"name": "microvm", "version": "6.1.0-40-amd64", "state": "incomplete"}.items() <= next(
        one for one in given["components"] if one["name"] == "microvm"
    ).items()


def test_failed_units_are_a_warning_that_names_them(host):
    host.programs["systemctl list-units"] = Result(0, "x.service loaded failed failed X\n")
    [one] = found(host, "failed-units", "doctor")
    assert one["severity"] == "warning" and one["evidence"] == "x.service"


def test_programs_of_ours_that_fail_are_findings(host):
    host.programs[f"{host.path(BIN)}/casemate-pod"] = Result(1, err="Traceback\nConnectionError: refused")
    [one] = found(host, "pod", "doctor")
    assert not one["ok"] and one["evidence"].endswith("ConnectionError: refused")


class TestServices:
    """Services follow their files by time."""

    WANTED: list = [{"unit": "p.service", "restart": ["/etc/default/p"], "reload": ["/etc/p.yml"]}]  # noqa: RUF012

    @pytest.fixture
    def host(self, tmp_path):
        host = FakeHost(tmp_path)
        host.write("/etc/default/p", "")
        host.write("/etc/p.yml", "")
        return host

    def action(self, host, pending=(), entered=9_000_000_000, changed=9_000_000_000, **state):
        shown = {"LoadState": "loaded", "ActiveState": "active", "UnitFileState": "enabled", **state}
        shown |= {"ActiveEnterTimestamp": f"@{entered}", "StateChangeTimestamp": f"@{changed}"}
        host.programs["systemctl show"] = Result(0, "\n".join(f"{key}={value}" for key, value in shown.items()))
        return services.needed(host, self.WANTED, list(pending))[0]["action"]

    def test_a_current_service_needs_nothing(self, host):
        assert self.action(host) == "none"

    def test_a_service_older_than_its_arguments_is_restarted(self, host):
        assert self.action(host, entered=1000) == "restart"

    def test_a_service_older_than_its_configuration_is_reloaded_unless_it_was_since(self, host):
        host.path("/etc/default/p").unlink()
        assert self.action(host, entered=1000, changed=1000) == "reload"
        assert self.action(host, entered=1000) == "none"

    def test_a_file_about_to_change_counts_as_newer(self, host):
        assert self.action(host, pending=["/etc/p.yml"]) == "reload"

    @pytest.mark.parametrize("state", ["inactive", "failed"])
    def test_a_service_that_does_not_run_is_started(self, host, state):
        assert self.action(host, ActiveState=state) == "start"

    def test_a_disabled_service_is_enabled(self, host):
        assert self.action(host, UnitFileState="disabled") == "enable"
