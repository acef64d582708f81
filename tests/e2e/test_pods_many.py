"""Many pods on a host, declared in an inventory; and a host that reboots without network."""

import json
import subprocess
import time

import pytest
import yaml

from appliance.lab import nspawn
from appliance.lab.leader import leader_of
from tests.conftest import ROOT, appliance, inside, on_host
from tests.e2e.conftest import events

pytestmark = pytest.mark.lab

WEB = {"image": "localhost/casemate/demo:1", "imagePullPolicy": "Never", "name": "web"}


def declared(counts: dict[str, int]) -> list[dict]:
    """Pods of the demo's image, so many of each handler, each ready when it serves."""
    probe = {"tcpSocket": {"port": 8080}, "periodSeconds": 2, "timeoutSeconds": 30}
    return [
        {
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"many-{handler}-{number}"},
            "spec": {"runtimeClassName": handler, "terminationGracePeriodSeconds": 1,
                     "containers": [WEB | {"readinessProbe": probe, "resources": {"limits": {"memory": "64Mi"}}}]},
        }
        for handler, count in counts.items() for number in range(count)
    ]  # fmt: skip


def inventory(host, path, pods: list[dict]) -> str:
    """An inventory of one host: the lab's, with these pods."""
    values = yaml.safe_load((ROOT / "inventories/lab/site.yml").read_text())["appliance"]["vars"]
    values |= {"pods": pods, "pods_ready_timeout": 900}
    path.write_text(json.dumps({"appliance": {"hosts": {host.name: host.vars}, "vars": values}}))
    return str(path)


def changes(done) -> list[dict]:
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    return [event for event in events(done.stdout) if event["event"] == "change"]


def live(host, tmp_path, counts: dict[str, int]) -> dict:
    """Deploy so many pods, look at them, deploy again, take them back; what was seen."""
    many = inventory(host, tmp_path / "many.yml", declared(counts))
    none = inventory(host, tmp_path / "none.yml", [])
    try:
        begin = time.monotonic()
        changed = changes(appliance("deploy", "-i", many, "-o", "json", timeout=1800))
        seen = {"deploy_s": round(time.monotonic() - begin, 1), "changed": bool(changed)}
        seen |= inside(host, "fleet", "many-", timeout=1800)
        listed = json.loads(appliance("pods", "-i", many, "-o", "json").stdout)["hosts"][0]["pods"]
        seen["listed"] = sum(pod["ready"] for pod in listed if pod["name"].startswith("many-"))
        seen["again"] = changes(appliance("deploy", "-i", many, "-o", "json", timeout=1800))
    finally:
        changes(appliance("deploy", "-i", none, "-o", "json", timeout=1800))
    seen["left"] = on_host(host, "sh", "-c", "ls -d /etc/casemate/pods/many-* /run/casemate/pods/many-* || true")
    return seen


def judge(seen: dict, count: int) -> None:
    assert seen["changed"]
    assert (len(seen["pods"]), seen["listed"]) == (count, count), seen["pods"]
    assert sum(pod["restarts"] for pod in seen["pods"].values()) == 0
    assert seen["starts"] <= 2, "more pods were started at once than there are processors"
    assert (seen["again"], seen["left"]) == ([], "")


def test_pods_of_an_inventory_are_deployed_listed_left_alone_and_removed(deployed_host, tmp_path, record_property):
    seen = live(deployed_host, tmp_path, {"runc": 4, "microvm": 1})
    record_property("seen", {key: seen[key] for key in ("deploy_s", "pss_mib", "cpu_s", "starts")})
    judge(seen, 5)


@pytest.mark.full
@pytest.mark.parametrize("counts", [{"runc": 50}, {"microvm": 10}])
def test_fifty_pods_or_ten_microvms_are_deployed_listed_left_alone_and_removed(
    deployed_host, tmp_path, record_property, counts
):
    seen = live(deployed_host, tmp_path, counts)
    record_property("seen", {key: seen[key] for key in ("deploy_s", "pss_mib", "cpu_s", "starts")})
    judge(seen, sum(counts.values()))


@pytest.mark.full
def test_all_pods_are_ready_again_after_a_reboot_with_the_network_down(new_host, tmp_path, record_property):
    host = new_host("reboot")
    pods = declared({"runc": 8, "microvm": 2})
    changes(appliance("deploy", "-i", inventory(host, tmp_path / "site.yml", pods), "-o", "json", timeout=1800))
    seen = reboot(host, len(pods))
    record_property("seen", seen)
    assert seen["network"] in ("down", "lowerlayerdown")
    assert seen["not_ready"] == [], seen
    assert seen["restarts"] == {1}


def reboot(host, count: int, seconds: float = 900) -> dict:
    """Cut the host's network, reboot it, and wait for its pods."""
    cable = ["ip", "link", "set", host.interface]
    before = leader_of(host.root)
    subprocess.run([*cable, "down"], check=True)
    try:
        subprocess.run([*nspawn.enter(before), "systemctl", "reboot"], check=False)
        begin = time.monotonic()
        while (leader_of(host.root) in (None, before)) and time.monotonic() < begin + seconds:
            time.sleep(0.2)
        begin = booted = time.monotonic()
        while time.monotonic() < begin + seconds:
            rows = pods_of(host)
            missing = [row["name"] for row in rows if not row["ready"]]
            if len(rows) == count and not missing:
                break
            time.sleep(1)
        took = round(time.monotonic() - booted, 1)
        state = json.loads(on_host(host, "ip", "-j", "link", "show", "eth0"))[0]["operstate"].lower()
    finally:
        subprocess.run([*cable, "up"], check=True)
    return {"network": state, "ready_s": took, "not_ready": missing, "restarts": {row["restarts"] for row in rows}}


def pods_of(host) -> list[dict]:
    said = on_host(host, "/usr/lib/casemate/bin/casemate-pod", "list", "-o", "json", check=False)
    return [row for row in json.loads(said or "[]") if row["name"].startswith("many-")]
