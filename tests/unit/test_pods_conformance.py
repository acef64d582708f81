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
    variables = {"pods": [pod for pod in pods if pod["metadata"]["name"] != "environment"]}
    groups = {"appliance": {"hosts": {"edge1": {"ansible_host": "192.0.2.11"}}, "vars": variables}}
    site.write_text(json.dumps(groups, ensure_ascii=False))
    assert load([site], content=HERE).hosts
