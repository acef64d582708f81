"""Object storage: what an inventory may say of it, and what doctor says of it."""

import json

import pytest
import yaml
from health_fakes import bare, found

from appliance.inventory import InventoryError, load
from plugins.filter.casemate_objects import casemate_gateway
from tests.conftest import ROOT

WELL = {"storage_volumes": [{"name": "objects"}, {"name": "shop"}], "objects_volume": "objects"}


def problems(tmp_path, variables: dict) -> list[tuple[str, str]]:
    file = tmp_path / "site.yml"
    file.write_text(yaml.safe_dump({"appliance": {"vars": variables, "hosts": {"a": {"ansible_host": "192.0.2.11"}}}}))
    try:
        load([file], content=ROOT)
    except InventoryError as error:
        return [(problem.key.rpartition("vars.")[2], problem.message) for problem in error.problems]
    return []


def claiming(volume: str) -> list[dict]:
    spec = {"containers": [{"name": "main", "image": "localhost/a:1"}],
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": volume}}]}  # fmt: skip
    return [{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "shop"}, "spec": spec}]


def test_none_is_declared_by_default_and_a_volume_is_all_it_takes(tmp_path):
    assert problems(tmp_path, {}) == []
    assert problems(tmp_path, WELL | {"pods": claiming("shop")}) == []
    assert problems(tmp_path, {"monitoring_prometheus_port": 7480}) == []  # nobody else's where there is no storage


@pytest.mark.parametrize(
    ("changes", "key", "said"),
    [
        ({"objects_volume": "other"}, "objects_volume", "is no volume of storage_volumes"),
        ({"pods": claiming("objects")}, "claimName", "is the volume of objects_volume"),
        ({"objects_users": [{"name": "shop", "secret": "in clear text"}]}, "secret", "clear text"),
        ({"objects_users": [{"name": "a_b", "secret": ""}]}, "name", "form"),
        ({"objects_users": [{"name": "a", "secret": ""}, {"name": "a", "secret": ""}]}, "[1].name", "more than once"),
        ({"objects_certificate": "PEM"}, "objects_certificate_key", "is missing"),
        ({"objects_addresses": ["nas"]}, "objects_addresses", "form"),
        ({"monitoring_prometheus_port": 7480}, "monitoring_prometheus_port", "port of objects_port"),
    ],
)
def test_what_is_wrong_is_told_with_its_key(tmp_path, changes, key, said):
    told = problems(tmp_path, WELL | changes)
    assert [one for one in told if key in one[0] and said in one[1]], told


def test_pods_reach_their_host_by_the_first_address_of_their_network():
    assert casemate_gateway("10.86.0.0/16") == "10.86.0.1"
    assert casemate_gateway("192.0.2.128/25") == "192.0.2.129"


@pytest.fixture
def host(tmp_path):
    made = bare(tmp_path)
    made.write("/etc/casemate/objects.json", json.dumps({"volume": "objects", "addresses": ["127.0.0.1"], "port": 9,
                                                         "tls": False}))  # fmt: skip
    return made


def test_a_host_without_object_storage_has_no_finding(tmp_path):
    assert found(bare(tmp_path), "objects", "doctor") == []


def test_a_server_that_does_not_answer_and_a_volume_that_is_gone_are_findings(host, monkeypatch):
    def refused(url, timeout):
        raise OSError("Connection refused")

    monkeypatch.setattr(type(host), "ask_unverified", lambda self, url, timeout: refused(url, timeout))
    ids = {one["id"]: one["ok"] for one in found(host, "objects", "doctor")}
    assert ids == {"objects-127.0.0.1": False, "objects-disk": False}


def test_a_server_that_answers_is_well(host, monkeypatch):
    asked = []
    monkeypatch.setattr(type(host), "ask_unverified", lambda self, url, timeout: asked.append(url))
    host.write("/var/lib/casemate/pool/volumes/objects/.keep", "")
    server, _ = found(host, "objects", "doctor")
    assert server["ok"] and asked == ["http://127.0.0.1:9/healthcheck"]
