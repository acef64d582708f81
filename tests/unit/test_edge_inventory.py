"""What an inventory says of the edge core is judged before any host is touched; of the token only what is no secret."""

import base64
import json

import pytest
import yaml

from appliance.inventory import InventoryError, load
from plugins.filter.casemate_edge import casemate_edge_token
from tests.conftest import ROOT

SHIPPED = yaml.safe_load((ROOT / "inventories/kubeedge/site.yml").read_text())
POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "web"},
    "spec": {"runtimeClassName": "runc", "containers": [{"name": "web", "image": "localhost/casemate/demo:1"}]},
}
VAULTED = "$ANSIBLE_VAULT;1.1;AES256\n6162"


def problems(tmp_path, changes: dict, hosts: dict | None = None) -> list[tuple[str, str]]:
    document = {"appliance": {**SHIPPED["appliance"], "vars": {**SHIPPED["appliance"]["vars"], **changes}}}
    document["appliance"]["hosts"] = hosts or {"a": {"ansible_host": "192.0.2.11"}}
    file = tmp_path / "site.yml"
    file.write_text(yaml.safe_dump(document))
    try:
        load([file], content=ROOT)
    except InventoryError as error:
        return [(problem.key.rpartition("vars.")[2], problem.message) for problem in error.problems]
    return []


def test_the_shipped_inventory_is_complete():
    load([ROOT / "inventories/kubeedge"], content=ROOT)


@pytest.mark.parametrize(
    ("changes", "key", "said"),
    [
        ({"edge_url": ""}, "edge_url", "is needed"),
        ({"edge_checksum": ""}, "edge_checksum", "is needed"),
        ({"edge_cloud_address": ""}, "edge_cloud_address", "is needed"),
        ({"edge_checksum": "sha1:00"}, "edge_checksum", "wrong form"),
        ({"edge_url": "ftp://192.0.2.1/x"}, "edge_url", "wrong form"),
        ({"edge_cloud_port": 0}, "edge_cloud_port", "wrong form"),
        ({"edge_token": "abc", "edge_token_file": ""}, "edge_token", "secret in clear text"),
        ({"edge_broker_address": "0.0.0.0:1883"}, "edge_broker_address", "no loopback address"),
        ({"edge_broker_address": "127.0.0.1:9090"}, "edge_broker_address", "port of monitoring_prometheus_port"),
        ({"edge_node_labels": {"rack": 7}}, "edge_node_labels.rack", "is not text"),
        ({"edge_static_pods": True, "pods": [POD]}, "pods[0].spec.runtimeClassName", "cannot be had from EdgeCore"),
        ({"edge_provider": "k3s"}, "edge_provider", "none of the choices"),
    ],
)
def test_each_mistake_is_told_at_its_key(tmp_path, changes, key, said):
    found = problems(tmp_path, changes)
    assert [key] == sorted({where for where, _ in found}), found
    assert any(said in message for _, message in found), found


@pytest.mark.parametrize("changes", [{"edge_broker_address": "127.0.0.1:9090", "edge_broker": "external"}])
def test_a_port_that_is_not_taken_here_clashes_with_none(tmp_path, changes):
    assert problems(tmp_path, changes) == []


def test_two_hosts_cannot_be_one_node(tmp_path):
    hosts = {name: {"ansible_host": f"192.0.2.{n}", "edge_node_name": "edge1"} for n, name in enumerate("ab", 11)}
    assert [message for _, message in problems(tmp_path, {}, hosts)] == ["host b is the same node as host a"]


def jwt(payload: bytes) -> str:
    return "e30." + base64.urlsafe_b64encode(payload).decode().rstrip("=") + ".c2ln"


@pytest.mark.parametrize(
    ("token", "told"),
    [
        ("", {"problem": "", "ca": "", "expires": 0}),
        (f"{'A' * 64}.{jwt(json.dumps({'exp': 1800}).encode())}\n", {"problem": "", "ca": "a" * 64, "expires": 1800}),
        (f"{'a' * 64}.{jwt(b'{}')}", {"problem": "", "ca": "a" * 64, "expires": 0}),
        ("a.b.c", {"problem": "it has 3 parts instead of 4", "ca": "", "expires": 0}),
        (f"{'a' * 63}.b.c.d", {"problem": "a part has the wrong form", "ca": "", "expires": 0}),
        (f"{'a' * 64}.{jwt(b'no json')}", {"problem": "its second part is no JWT", "ca": "", "expires": 0}),
    ],
)  # fmt: skip
def test_of_a_token_only_what_is_no_secret_is_told(token, told):
    assert casemate_edge_token(token) == told
