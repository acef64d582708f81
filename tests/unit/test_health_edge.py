"""The edge core's checks: what preflight says of a join, and doctor of a node."""

import base64
import json
import time

import pytest
from health_fakes import FakeHost, bare, found

from appliance.node.health import edgecore, status
from appliance.node.health.host import Answer, Result
from appliance.node.health.settings import Settings

CA, OTHER = "a" * 64, "b" * 64
PEM = "-----BEGIN CERTIFICATE-----\n" + base64.b64encode(b"a certificate").decode() + "\n-----END CERTIFICATE-----\n"
WANTED = {
    "address": "192.0.2.1", "port": 10000, "https_port": 10002, "node": "edge1", "ca": "", "token_ca": CA,
    "token_expires": 1_800_003_600, "token_problem": "", "broker": "127.0.0.1:1883",
}  # fmt: skip
BASE = "https://192.0.2.1:10002"
DECLARED = {
    "cloud": "192.0.2.1:10000", "cloud_https": "192.0.2.1:10002", "node_name": "edge1", "broker": "mosquitto",
    "broker_address": "127.0.0.1:1883",
}  # fmt: skip
PROCESS = 700


class EdgeHost(FakeHost):
    """`answers`: what CloudCore answers, by URL; any other is a 404."""

    answers: dict[str, Answer]

    def ask_unverified(self, url, timeout):
        if url not in self.answers:
            raise OSError("HTTP Error 404: Not Found")
        return self.answers[url]


@pytest.fixture
def host(tmp_path, monkeypatch) -> EdgeHost:
    """A bare host whose CloudCore is well."""
    monkeypatch.setattr(edgecore.time, "sleep", lambda seconds: None)
    host = bare(tmp_path)
    host.__class__ = EdgeHost
    host.answers = {f"{BASE}/ca.crt": Answer(CA, host.clock)}
    return host


def wrong(host, **changes) -> dict[str, dict]:
    return {one["id"]: one for one in found(host, "edge", edge={**WANTED, **changes}) if not one["ok"]}


def test_without_a_provider_there_is_nothing_to_say(host):
    assert found(host, "edge") == []


def test_a_host_that_can_join_is_well(host):
    assert wrong(host) == {}
    assert {one["id"] for one in found(host, "edge", edge=WANTED)} == {
        f"edge-{of}" for of in ("node-name", "token", "kubelet", "broker", "cloud", "ca", "clock", "node-free")
    }


@pytest.mark.parametrize(
    ("changes", "finding", "evidence"),
    [
        ({"token_ca": "", "token_problem": "it has 3 parts instead of 4"}, "edge-token", "3 parts"),
        ({"token_ca": ""}, "edge-token", "none is given"),
        ({"token_expires": 1_799_999_999}, "edge-token", "expired at 2027-01-15"),
        ({"ca": OTHER}, "edge-token", "edge_cloud_ca_hash"),
        ({"token_ca": OTHER}, "edge-ca", OTHER),
        ({"node": "Edge_1"}, "edge-node-name", "Edge_1"),
    ],
)
def test_each_thing_that_hinders_a_join_is_an_error(host, changes, finding, evidence):
    one = wrong(host, **changes)[finding]
    assert one["severity"] == "error" and one["cause"] and one["cure"]
    assert evidence in one["evidence"]


def test_a_cloud_that_cannot_be_reached_is_an_error_for_who_joins_and_a_warning_for_a_member(host):
    host.unreachable["192.0.2.1"] = "cannot connect"
    assert wrong(host)["edge-cloud"]["severity"] == "error"
    member(host)
    assert wrong(host, token_ca="")["edge-cloud"]["severity"] == "warning"


def test_a_member_needs_no_token_and_its_name_is_its_own(host):
    member(host)
    host.answers = {f"{BASE}/ca.crt": Answer(ca(), host.clock), f"{BASE}/node/edge1": Answer(CA, None)}
    assert wrong(host, token_ca="") == {}


def test_a_name_that_the_cloud_has_already_is_an_error(host):
    host.answers[f"{BASE}/node/edge1"] = Answer(CA, None)
    assert "kubectl delete node edge1" in wrong(host)["edge-node-free"]["cure"]


def test_a_clock_that_differs_from_the_clouds_is_an_error(host):
    host.answers[f"{BASE}/ca.crt"] = Answer(CA, host.clock - 4000)
    assert "+4000 s" in wrong(host)["edge-clock"]["evidence"]


@pytest.mark.parametrize(
    ("path", "text", "finding"),
    [
        ("/proc/77/comm", "kubelet\n", "edge-kubelet"),
        ("/etc/kubeedge/config/edgecore.yaml", "", "edge-kubelet"),
        ("/etc/mosquitto/conf.d/mine.conf", "listener 1883\n", "edge-broker"),
    ],
)
def test_what_would_get_in_each_others_way_is_an_error(host, path, text, finding):
    host.write(path, text)
    assert list(wrong(host)) == [finding]


# doctor


def ca() -> str:
    return edgecore.ca_hash(PEM)


def member(host) -> None:
    """Make the host a member of its cloud that runs."""
    host.write(edgecore.DECLARED, json.dumps(DECLARED))
    host.write(edgecore.APPLIED, json.dumps({"version": "v1.23.1", "node": "edge1"}))
    host.write(edgecore.CA, PEM)
    host.write(edgecore.CERTIFICATE, PEM)
    host.write(edgecore.CONFIG, "enableDebuggingHandlers: false\n")
    host.path(edgecore.CONFIG).chmod(0o600)
    unit(host)
    host.programs["systemctl is-active containerd.service"] = Result(0, "active\n")
    host.programs["journalctl"] = Result(0)


def unit(host, **changes) -> None:
    state = {
        "LoadState": "loaded", "ActiveState": "active", "SubState": "running", "Result": "success",
        "ExecMainStatus": "0", "NRestarts": "0", "MainPID": str(PROCESS), "ActiveEnterTimestamp": "@1799990000",
    }  # fmt: skip
    lines = [f"{key}={value}" for key, value in (state | changes).items()]
    host.programs["systemctl show"] = Result(0, "\n".join(lines))


def connect(host, inode: int = 4711) -> None:
    """Give EdgeCore a connection to port 10000."""
    heading = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
    line = f"   0: 0B00570A:A0F2 010200C0:2710 01 00000000:00000000 00:00000000 00000000     0        0 {inode} 1\n"
    host.write("/proc/net/tcp", heading + line)
    at = host.path(f"/proc/{PROCESS}/fd")
    at.mkdir(parents=True, exist_ok=True)
    (at / "9").symlink_to("socket:[4711]")


def core(host) -> dict:
    return next(one for one in found(host, "edge", "doctor") if one["id"] == "edge-core")


def test_a_host_without_a_provider_has_no_finding(host):
    assert found(host, "edge", "doctor") == []


def test_a_node_that_is_connected_is_well(host):
    member(host)
    connect(host)
    assert [one for one in found(host, "edge", "doctor") if not one["ok"]] == []
    assert "cloud: connected" in core(host)["evidence"]


def test_another_programs_connection_to_that_port_is_not_edgecores(host):
    member(host)
    connect(host, inode=4712)
    assert "cloud: away" in core(host)["evidence"]


@pytest.mark.parametrize(
    ("log", "since"),
    [
        ("", "2027-01-15 05:13:20 UTC"),  # its start: it never reached the cloud since then
        (
            "1799991000.5 edge1 edgecore[7]: I] Websocket connect to cloud access successful\n"
            "1799992000.5 edge1 edgecore[7]: E] Init websocket connection failed refused\n"
            "1799993000.5 edge1 edgecore[7]: E] Init websocket connection failed refused\n",
            "2027-01-15 05:46:40 UTC",
        ),
    ],
)
def test_a_cloud_that_is_away_is_a_warning_that_says_since_when(host, log, since):
    member(host)
    host.programs["journalctl"] = Result(0, log)
    one = core(host)
    assert (one["ok"], one["severity"]) == (False, "warning")
    assert f"away since {since}" in one["evidence"]


@pytest.mark.parametrize(
    ("state", "gone", "said", "cause"),
    [
        ({"ExecMainStatus": "2"}, edgecore.CERTIFICATE, "panic: failed to apply the edge certs", "it never joined"),
        ({"ExecMainStatus": "255"}, "", "F] Failed to initialize CSINode", "never registered this node"),
        ({"ExecMainStatus": "3"}, "", "E0101 no idea", "exit code 3: E0101 no idea"),
        ({"ExecMainStatus": "1"}, "", "kubelet should not running on edge node", "a kubelet or kube-proxy runs"),
    ],
)
def test_an_edgecore_that_does_not_stay_up_is_explained(host, state, gone, said, cause):
    member(host)
    unit(host, ActiveState="activating", SubState="auto-restart", **state)
    host.programs["journalctl -o json"] = Result(0, journal(("1", said)))
    if gone:
        host.path(gone).unlink()
    one = core(host)
    assert one["severity"] == "error" and one["cure"]
    assert cause in one["cause"]


def test_a_missing_engine_comes_before_what_follows_from_it(host):
    member(host)
    unit(host, ActiveState="activating", SubState="auto-restart", ExecMainStatus="2")
    host.programs["systemctl is-active containerd.service"] = Result(3, "inactive\n")
    assert "the engine is missing" in core(host)["cause"]


def test_an_edgecore_that_is_up_between_two_failures_is_not_well(host):
    member(host)
    unit(host, NRestarts="5")
    host.programs["journalctl -o json"] = Result(0, journal(("1", "F] Failed to initialize CSINode")))
    assert "never registered" in core(host)["cause"]


def test_what_an_edgecore_said_in_former_runs_is_not_why_it_fails_now(host):
    member(host)
    unit(host, ActiveState="activating", SubState="auto-restart", ExecMainStatus="3")
    runs = [("1", "F] Failed to initialize CSINode"), ("2", "E0101 no idea"), ("3", "E0101 no idea")]
    host.programs["journalctl -o json"] = Result(0, journal(*runs))
    assert "exit code 3: E0101 no idea" in core(host)["cause"]


def journal(*lines: tuple[str, str]) -> str:
    """What `journalctl -o json` prints of (run, message)."""
    return "\n".join(json.dumps({"_SYSTEMD_INVOCATION_ID": run, "MESSAGE": said}) for run, said in lines)


def test_debugging_handlers_that_somebody_turned_on_are_an_error(host):
    member(host)
    connect(host)
    host.write(edgecore.CONFIG, "modules:\n  edged:\n    tailoredKubeletConfig:\n      enableDebuggingHandlers: true\n")
    host.path(edgecore.CONFIG).chmod(0o644)
    [one] = [one for one in found(host, "edge", "doctor") if not one["ok"]]
    assert one["severity"] == "error"
    assert "enableDebuggingHandlers is on" in one["evidence"] and "mode 0644" in one["evidence"]


@pytest.mark.parametrize(("days", "severity"), [(300, None), (5, "warning"), (-1, "error")])
def test_a_certificate_that_ends_soon_is_a_warning_and_one_that_ended_an_error(host, days, severity):
    member(host)
    connect(host)
    ends = time.strftime("%b %d %H:%M:%S %Y GMT", time.gmtime(time.time() + days * 86400))
    host.programs["openssl x509"] = Result(0, f"notAfter={ends}\n")
    (one,) = [one for one in found(host, "edge", "doctor") if one["id"] == "edge-certificate"]
    assert one["ok"] == (severity is None) and one["severity"] == (severity or "error")


def test_status_has_edgecore_with_the_state_of_its_cloud(host):
    member(host)
    connect(host)
    [part] = [one for one in status.components(host, Settings()) if one["name"] == "edgecore"]
    assert part == {
        "name": "edgecore", "version": "v1.23.1", "state": "active", "node": "edge1", "cloud": "connected",
    }  # fmt: skip
    host.write("/proc/net/tcp", "")
    [part] = [one for one in status.components(host, Settings()) if one["name"] == "edgecore"]
    assert part["cloud"] == "away since 2027-01-15 05:13:20 UTC"
