"""inventories/kubeedge on a host of its own: nothing of a bad release, a join, no change, the cloud away, and leave.

EdgeCore and CloudCore are stand-ins (tests/standins). With CASEMATE_EDGECORE=/path that binary is deployed instead: the
cases up to its certificate run with it. Those of a member need a CloudCore with a Kubernetes API behind it, which this
suite cannot make yet: they are skipped, and say so.
"""

import json
import os

import pytest

from appliance.lab import state
from appliance.lab.leader import leader_of
from tests.conftest import inside
from tests.e2e import traces
from tests.e2e.conftest import LIVING, kernel_state
from tests.e2e.edge_site import Site, until
from tests.standins import release
from tests.standins.cloudcore import CloudCore

pytestmark = pytest.mark.lab
NEVER_OF_EDGECORE = (
    "/etc/kubeedge", "/var/lib/kubeedge", "/var/lib/kubelet", "/usr/lib/casemate/edge/current",
    "/etc/systemd/system/edgecore.service", "/etc/mosquitto/conf.d/casemate.conf", "/etc/casemate/edge.json",
    "/run/casemate/edge-token", "/run/kubeedge",
)  # fmt: skip
SYNC = ("/usr/lib/casemate/bin/casemate-pod", "sync", "--wait=120")


@pytest.fixture(scope="module")
def site(new_host, tmp_path_factory):
    name = os.environ.get("CASEMATE_E2E_HOST")  # while a test is written
    found = Site(state.load(name) if name else new_host("edge"), tmp_path_factory.mktemp("edge"))
    if name:
        assert found.deploy(edge_provider="none").code == 0
    yield found
    found.close()


def test_everything_that_would_hinder_a_join_is_told_at_once_before_the_host_is_touched(site):
    site.cloud.date_offset, right = 4000, site.token_file.read_text()
    site.cloud.nodes.add(site.host.name)
    site.give_token("0" * 64 + right[64:])
    try:
        found = site.deploy()
    finally:
        site.cloud.date_offset = 0
        site.cloud.nodes.clear()
        site.give_token(right)
    assert (found.code, found.changed, there(site)) == (1, [], [])
    for finding, cure in (
        ("edge-ca", "new token"),
        ("edge-clock", "timedatectl"),
        ("edge-node-free", "kubectl delete"),
    ):
        assert f"{finding}: " in found.failure and cure in found.failure, found.failure
    expired = site.deploy(edge_token_file=str(site.written(site.cloud.token(-60))), edge_cloud_port=1)
    assert (expired.code, expired.changed) == (1, [])
    assert "edge-token: it expired" in expired.failure and "edge-cloud: cannot connect" in expired.failure


def there(site: Site) -> list[str]:
    """What of EdgeCore's is on the host."""
    return [path for path in NEVER_OF_EDGECORE if os.path.lexists(f"{site.host.root}{path}")]


@pytest.fixture(scope="module")
def refused(site):
    """The first deploy of the bare host, with a checksum that is not the archive's."""
    return site.deploy(edge_checksum=f"sha512:{'0' * 128}")


def test_a_wrong_checksum_stops_the_deploy_and_nothing_is_installed(site, refused):
    assert refused.code == 1
    assert "has the sha512 checksum" in refused.failure and "edge_checksum" in refused.failure
    assert "nothing was installed" in refused.failure
    assert there(site) == []


def test_a_truncated_file_and_a_vanished_server_are_told_apart_and_nothing_is_installed(site, refused):
    whole = site.archive.read_bytes()
    wanted = site.artifact(release.VERSION)["artifact"]
    site.archive.write_bytes(whole[: len(whole) // 2])
    cut_short = site.fetch(wanted)
    site.archive.write_bytes(whole)
    assert (cut_short.returncode, there(site)) == (1, [])
    assert f"is cut short: {len(whole) // 2} of {len(whole)} bytes" in cut_short.stderr
    vanished = site.fetch(wanted | {"url": f"http://{site.cloud.address}:9/{site.archive.name}"})
    assert (vanished.returncode, there(site)) == (1, [])
    assert "cannot be downloaded" in vanished.stderr and "edge_url" in vanished.stderr


@pytest.fixture(scope="module")
def before(site, refused) -> tuple:
    """The host as it is without an edge provider: files, and what kernel and systemd hold."""
    assert site.deploy(edge_provider="none").code == 0
    site.run("/usr/lib/casemate/bin/casemate-images", "--demo")  # what the pods below are made of
    with_the_runner(site)  # the first pod of a host makes the bridge and some directories, whoever runs it
    site.run("rm", "/etc/casemate/pods/web.json")
    site.run(*SYNC)
    return traces.files(site.host.root, LIVING), kernel_state(site.host)


@pytest.mark.full
def test_a_cloud_that_registers_no_node_fails_the_join_and_nothing_runs(site, before):
    """The real binary comes this far with the cloud's stand-in: it takes the configuration and gets a certificate."""
    site.cloud.registers = False
    try:
        done = site.deploy(edge_ready_timeout=100)
    finally:
        site.cloud.registers = True
    assert done.code == 1
    assert "never registered this node" in done.failure and "Nothing of EdgeCore's runs now" in done.failure
    assert "/edge.crt" in site.cloud.asked
    assert site.run("systemctl", "is-active", "edgecore", check=False).strip() == "inactive"
    assert site.run("systemctl", "is-enabled", "edgecore", check=False).strip() == "disabled"
    assert [path for path in there(site) if "kubeedge" in path or path.endswith(("current", "token"))] == []


@pytest.fixture(scope="module")
def joined(site, before):
    if os.environ.get("CASEMATE_EDGECORE"):
        pytest.skip("the real EdgeCore becomes a member only of a CloudCore with a Kubernetes API (CASEMATE_CLOUDCORE)")
    return site.deploy()


def test_the_host_joins_its_cloud(site, joined):
    assert joined.code == 0, joined.failure or joined.said
    part = next(one for one in site.ask("status")["components"] if one["name"] == "edgecore")
    assert part | {"name": "edgecore", "version": "v1.23.1", "state": "active", "cloud": "connected"} == part
    assert site.cloud.connected == {site.host.name}
    assert [one["id"] for one in site.ask("doctor")["checks"] if one["id"].startswith("edge") and not one["ok"]] == []


def test_deploying_again_changes_nothing_although_edgecore_wrote_its_file_anew(site, joined):
    written = site.run("cat", "/etc/kubeedge/config/edgecore.yaml")
    assert "heartbeat: 15" in written, "EdgeCore has not written its file: this would prove nothing"
    again = site.deploy()
    assert (again.code, again.changed) == (0, [])


def test_the_token_is_nowhere_on_the_host_nor_in_logs_and_the_rest_is_for_root_alone(site, joined):
    secret = site.token_file.read_text().split(".")[-1]
    search = 'grep -rslF -- "$(cat)" /etc /run /tmp /usr/lib/casemate /var || true'
    assert site.run("sh", "-c", search, stdin=secret) == ""
    assert secret not in joined.said
    loose = site.run("find", "/etc/kubeedge", "/var/lib/kubeedge", "-perm", "/077", "-print")
    assert loose == ""


def test_edgecores_and_the_brokers_ports_are_open_on_loopback_only(site, joined):
    lines = site.run("ss", "-Hltn").splitlines()
    addresses = {line.split()[3] for line in lines if line.split()[3].endswith((":10350", ":1883"))}
    assert addresses == {"127.0.0.1:10350", "127.0.0.1:1883"}


def test_with_its_cloud_away_the_node_says_since_when_and_a_deploy_with_a_new_token_changes_nothing(site, joined):
    site.give_token(site.cloud.token(7200))
    site.cloud.stop()
    try:
        found = until(lambda: site.finding("edge-core"), lambda one: not one["ok"])
        assert (found["severity"], found["id"]) == ("warning", "edge-core")
        assert "cloud: away since 20" in found["evidence"]
        part = next(one for one in site.ask("status")["components"] if one["name"] == "edgecore")
        assert part["state"] == "active" and part["cloud"].startswith("away since 20")
        again = site.deploy()
        assert (again.code, again.changed) == (0, []), again.failure
    finally:
        site.cloud.start()


WEB = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "web"},
    "spec": {
        "terminationGracePeriodSeconds": 1,
        "containers": [
            {
                "name": "web",
                "image": "localhost/casemate/demo:1",
                "imagePullPolicy": "Never",
                "ports": [{"containerPort": 8080, "hostPort": 8099}],
            }
        ],
    },
}


def sandboxes(site: Site) -> dict[str, bool]:
    """The pods that are up, by name: whether EdgeCore made them."""
    listed = inside(site.host, "edge_pods")
    return {pod["name"]: not pod["runner"] for pod in listed["pods"] if pod["up"]}


def with_the_runner(site):
    """The web pod, made by the runner and ready."""
    site.run("sh", "-c", "cat > /etc/casemate/pods/web.json", stdin=json.dumps(WEB))
    site.run(*SYNC)


def test_the_same_manifest_goes_from_the_pod_runner_to_edgecore_and_back(site, joined):
    with_the_runner(site)
    assert sandboxes(site) == {"web": False}
    try:
        handed = site.apply(static_pods=True)
        assert handed.returncode == 0, handed.stderr
        there = until(lambda: sandboxes(site), lambda now: len(now) == 1 and all(now.values()))
        assert there == {f"web-{site.host.name}": True}
        site.run(*SYNC)
        assert sandboxes(site) == there, "the runner leaves EdgeCore's pods alone"
        back = site.apply(static_pods=False)
        assert back.returncode == 0, back.stderr
        assert sandboxes(site) == {}
        site.run(*SYNC)
        assert sandboxes(site) == {"web": False}
    finally:
        site.apply(static_pods=False)
        site.run("rm", "/etc/casemate/pods/web.json")
        site.run(*SYNC)


def test_a_release_that_does_not_run_is_put_back_and_one_that_does_replaces_the_old(site, joined):
    release.make(site.archive.parent, "v1.23.2", "raise SystemExit(3)")
    broken = site.apply(**site.artifact("v1.23.2"))
    assert broken.returncode == 1
    assert "exit code 3" in broken.stderr and "EdgeCore v1.23.1 is back" in broken.stderr
    assert until(lambda: site.cloud.connected, bool) == {site.host.name}
    release.make(site.archive.parent, "v1.23.2")
    done = site.apply(**site.artifact("v1.23.2"))
    assert done.returncode == 0, done.stderr
    assert json.loads(site.run("cat", "/var/lib/casemate/edge/applied.json"))["version"] == "v1.23.2"
    assert len(site.run("ls", "/usr/lib/casemate/edge").split()) == 2, "the link and what it points to"
    assert site.apply(**site.artifact(release.VERSION)).returncode == 0


@pytest.mark.full
def test_a_token_of_another_cloud_moves_the_host_there_and_a_refusal_leaves_it_where_it_was(site, joined):
    other = CloudCore(site.cloud.address, site.directory / "other cloud").start()
    other.registers = False
    try:
        refused = site.apply(token=other.token(), **other.addresses, ready_timeout=100)
        assert refused.returncode == 1 and "never registered" in refused.stderr, refused.stderr
        assert until(lambda: site.cloud.connected, bool) == {site.host.name}
        other.registers = True
        moved = site.apply(token=other.token(), **other.addresses, ready_timeout=100)
        assert moved.returncode == 0, moved.stderr
        # the cloud that was left hears of it a moment later
        assert until(lambda: site.cloud.connected, lambda seen: not seen) == set()
        assert other.connected == {site.host.name}
    finally:
        back = site.apply(token=site.cloud.token(), **site.cloud.addresses)
        other.stop()
    assert back.returncode == 0, back.stderr


@pytest.mark.full
def test_a_reboot_with_the_network_cut_keeps_the_node_and_the_clouds_pods(site, joined):
    site.cloud.pods = [WEB]
    until(lambda: sandboxes(site), lambda now: now == {"web": True})
    site.plug(False)
    try:
        before = leader_of(site.host.root)
        site.run("systemctl", "reboot", check=False)
        until(lambda: leader_of(site.host.root), lambda now: now not in (None, before))
        active = ["systemctl", "is-active", "containerd", "edgecore"]
        until(lambda: site.run(*active, check=False).split(), lambda now: now == ["active", "active"])
        assert until(lambda: sandboxes(site), lambda now: now == {"web": True}) == {"web": True}
        assert "away since" in site.finding("edge-core")["evidence"]
    finally:
        site.plug(True)
    assert until(lambda: site.cloud.connected, bool) == {site.host.name}
    site.cloud.pods = []
    until(lambda: sandboxes(site), lambda now: now == {})


@pytest.mark.full
def test_doctor_tells_an_engine_that_is_missing(site, joined):
    site.run("systemctl", "mask", "--runtime", "--now", "containerd")
    try:
        site.run("systemctl", "kill", "-s", "KILL", "edgecore")
        found = until(lambda: site.finding("edge-core"), lambda one: not one["ok"])
        assert "the engine is missing" in found["cause"] and "systemctl start containerd" in found["cure"]
    finally:
        site.run("systemctl", "unmask", "--runtime", "containerd")
        site.run("systemctl", "start", "containerd")
    assert until(lambda: site.finding("edge-core"), lambda one: one["ok"])["ok"]


# What another deploy and reset write, or Debian's tools keep
CHANGING = (
    "var/cache", "var/lib/apt", "var/lib/dpkg", "var/lib/prometheus", "var/lib/containerd", "var/lib/systemd",
    "var/lib/casemate/files", "var/lib/casemate/packages-installed", "var/lib/casemate/pool", "etc/ld.so.cache",
    "etc/passwd", "etc/group", "etc/shadow", "etc/gshadow", "etc/.pwd.lock", "etc/subuid", "etc/subgid",
    "var/tmp/systemd-private",
)  # fmt: skip


def test_without_a_provider_again_all_of_edgecores_goes_and_nothing_else(site, joined, before):
    site.cloud.pods = [WEB]
    until(lambda: sandboxes(site), lambda now: now == {"web": True})
    done = site.deploy(edge_provider="none")
    assert (done.code, there(site), sandboxes(site)) == (0, [], {}), done.failure
    files = traces.files(site.host.root, LIVING)
    # a unit that has just ended is forgotten a moment later
    kernel = until(lambda: kernel_state(site.host), lambda now: now == before[1], 60)
    kept = [
        {path: entry[:3] for path, entry in one.items() if not path.startswith(CHANGING)} for one in (before[0], files)
    ]
    assert traces.difference(*kept) == []
    assert {
        kind: sorted(set(now) ^ set(before[1][kind])) for kind, now in kernel.items() if now != before[1][kind]
    } == {}
    assert site.deploy(edge_provider="none").changed == []
