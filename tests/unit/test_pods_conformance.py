"""Every manifest of tests/manifests as the pod runner reads it, and as an inventory that declares it is read."""

import json
import textwrap

import pytest

from appliance.inventory import InventoryError, load
from appliance.node.pods import documents, manifest
from tests import conformance

HERE = conformance.DIRECTORY.parents[1]
WRONG = conformance.files("bad", "hostile")
# What a list in an inventory cannot hold at all: a document that ends it, or none.
ONLY_AS_FILES = ("two-documents", "no-document", "text", "list", "json-yaml", "json-half-pair")


def test_there_are_enough_of_them():
    assert len(conformance.files("good")) >= 20
    assert len(WRONG) >= 60


@pytest.mark.parametrize("path", conformance.files("good"), ids=lambda path: path.stem)
def test_a_good_one_has_no_problems(path):
    document = documents.parse(path.read_bytes(), path)
    for handler in ("runc", "microvm"):
        if handler in document["metadata"]["annotations"].get("test/handlers", handler):
            assert manifest.check(document, handler) == []


@pytest.mark.parametrize("path", WRONG, ids=lambda path: path.stem)
def test_a_wrong_one_is_told_with_its_file_and_what_is_wrong(path):
    with pytest.raises(manifest.ManifestError) as caught:
        manifest.load(path)
    assert conformance.expected(path) in str(caught.value)
    assert all(line.startswith(f"{path}: ") for line in str(caught.value).splitlines())


@pytest.mark.parametrize("path", [p for p in WRONG if p.stem not in ONLY_AS_FILES], ids=lambda path: path.stem)
def test_an_inventory_with_a_wrong_one_is_refused_before_any_host_is_touched(path, tmp_path):
    """What `appliance plan` makes exit code 2 of, as another test says."""
    text = path.read_text()
    pasted = f" {text.strip()}\n" if path.suffix == ".json" else f"\n{textwrap.indent(text, ' ' * 8)}"
    site = tmp_path / "site.yml"
    head = "appliance:\n  hosts:\n    edge1:\n      ansible_host: 192.0.2.11\n  vars:\n    pods:\n"
    site.write_text(f"{head}      -{pasted}")
    with pytest.raises(InventoryError) as caught:
        load([site], content=HERE)
    problem = caught.value.problems[0]
    assert problem.file == str(site)
    assert problem.line is None or problem.line > 6
    key = conformance.expected(path).partition(": ")[0]
    if key.startswith(("spec", "metadata")):
        assert problem.key.startswith(f"appliance.vars.pods[0].{key}"), str(problem)
    if path.parent.name == "bad":
        assert conformance.expected(path).partition(": ")[2][:40] in str(problem)


def test_good_ones_are_good_in_an_inventory_too(tmp_path):
    pods = [documents.parse(path.read_bytes(), path) for path in conformance.files("good")]
    for pod in pods:
        if "test/handlers" in pod["metadata"]["annotations"]:
            pod["spec"]["runtimeClassName"] = "runc"
    site = tmp_path / "site.json"
    variables = {
        "storage_volumes": [{"name": "conformance"}],
        "pods": [p for p in pods if p["metadata"]["name"] != "environment"],
    }
    groups = {"appliance": {"hosts": {"edge1": {"ansible_host": "192.0.2.11"}}, "vars": variables}}
    site.write_text(json.dumps(groups, ensure_ascii=False))
    assert load([site], content=HERE).hosts


POD = {
    "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
    "spec": {
        "containers": [{"name": "a", "image": "b"}],
        "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}],
    },
}  # fmt: skip
SECRET = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}}


@pytest.mark.parametrize(
    ("variables", "key", "message"),
    [
        ({"pods": [POD]}, "pods[0].spec.volumes[0].persistentVolumeClaim.claimName", "no volume of storage_volumes"),
        ({"pods": [POD], "storage_volumes": [{"name": "data"}]}, "", ""),
        ({"storage_volumes": [{"name": "a"}, {"name": "a"}]}, "storage_volumes[1].name", "more than once"),
        ({"storage_volumes": [{"name": "../a"}]}, "storage_volumes[0].name", "wrong form"),
        ({"storage_volumes": [{"name": "a", "size": "1G"}]}, "storage_volumes[0].size", "device of its own"),
        ({"storage_device": "/dev/vdb", "storage_volumes": [{"name": "a", "size": "1G"}]}, "", ""),
        ({"storage_devices": ["/dev/vdb", "/dev/vdc"], "storage_volumes": [{"name": "a", "size": "1G"}]}, "", ""),
        ({"storage_volumes": [{"name": "a", "snapshots": {"keep": {"daily": 7}}}]}, "storage_volumes[0].snapshots",
         "device of its own"),
        ({"storage_device": "/dev/vdb", "storage_volumes": [{"name": "a", "snapshots": {"schedule": "daily"}}]},
         "storage_volumes[0].snapshots", "lacks keep"),
        ({"storage_device": "/dev/vdb", "storage_devices": ["/dev/vdb"]}, "storage_devices", "beside storage_device"),
        ({"storage_devices": ["/dev/vdb", "/dev/vdb"]}, "storage_devices[1]", "more than once"),
        ({"storage_devices": ["vdb"]}, "storage_devices[0]", "wrong form"),
        ({"storage_device": "/dev/vdb", "storage_volumes": [{"name": "a", "size": "much"}]}, "storage_volumes[0].size",
         "wrong form"),
        ({"pods_configmaps": [{**SECRET, "kind": "ConfigMap", "data": {"a": 1}}]}, "pods_configmaps[0].data.a",
         "expected a string"),
        ({"pods_configmaps": [SECRET]}, "pods_configmaps[0].kind", "expected ConfigMap"),
        ({"pods_secrets": [{**SECRET, "stringData": {"a": "hunter2!"}}]}, "pods_secrets[0].stringData.a", "clear text"),
        ({"pods_secrets": [{**SECRET, "stringData": {"a": 12345678}}]}, "pods_secrets[0].stringData.a",
         "expected a string"),
        ({"pods_secrets": [SECRET, SECRET]}, "pods_secrets[1].metadata.name", "more than once"),
        ({"pods_secrets": [SECRET]}, "", ""),
        ({"pods": [{**POD, "spec": {"containers": POD["spec"]["containers"], "hostPID": True}}]},
         "pods[0].spec.hostPID", "set runtimeClassName: runc"),
        ({"engine_default_handler": "runc",
          "pods": [{**POD, "spec": {"containers": POD["spec"]["containers"], "hostPID": True}}]}, "", ""),
    ],
)  # fmt: skip
def test_what_pods_name_is_judged_in_the_inventory(tmp_path, variables, key, message):
    site = tmp_path / "site.json"
    hosts = {"edge1": {"ansible_host": "192.0.2.11"}}
    site.write_text(json.dumps({"appliance": {"hosts": hosts, "vars": variables}}))
    if not key:
        assert load([site], content=HERE).hosts
        return
    with pytest.raises(InventoryError) as caught:
        load([site], content=HERE)
    assert [problem.key for problem in caught.value.problems] == [f"appliance.vars.{key}"]
    assert message in str(caught.value)
    assert "hunter2" not in str(caught.value) and "12345678" not in str(caught.value)
