"""Pod manifests: what is accepted, and how what is not is refused."""

import copy
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.node.pods import documents, fields, manifest, schema
from appliance.node.pods.quantity import parse_quantity

MINIMAL = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "web"},
    "spec": {"containers": [{"name": "main", "image": "localhost/casemate/demo:1"}]},
}


def changed(path: str, value):
    """MINIMAL with the key at a dotted path set; a number is a list's index."""
    document = copy.deepcopy(MINIMAL)
    *steps, last = [int(step) if step.isdigit() else step for step in path.split(".")]
    place = document
    for step in steps:
        place = place.setdefault(step, {}) if isinstance(place, dict) else place[step]
    place[last] = value
    return document


def test_a_minimal_pod_has_no_problems():
    assert manifest.check(MINIMAL) == []


def test_what_kubectl_writes_of_itself_is_accepted():
    document = changed("metadata.creationTimestamp", None)
    document["status"] = {}
    document["spec"]["containers"][0]["resources"] = {}
    assert manifest.check(document) == []


@pytest.mark.parametrize(
    ("path", "value", "where"),
    [
        ("spec.nodeSelector", {}, "spec.nodeSelector"),
        ("spec.containers.0.restartPolicy", "Always", "spec.containers[0].restartPolicy"),
        ("spec.volumes", [{"name": "v", "nfs": {"server": "s", "path": "/"}}], "spec.volumes[0].nfs"),
        (
            "spec.containers.0.resources",
            {"limits": {"ephemeral-storage": "1Gi"}},
            "spec.containers[0].resources.limits.ephemeral-storage",
        ),
        ("metadata.ownerReferences", [], "metadata.ownerReferences"),
        (
            "spec.containers.0.securityContext",
            {"seLinuxOptions": {}},
            "spec.containers[0].securityContext.seLinuxOptions",
        ),
    ],
)
def test_a_field_that_is_not_supported_is_refused_by_name(path, value, where):
    problems = {problem.path: problem.message for problem in manifest.check(changed(path, value))}
    assert "not supported" in problems[where]


@pytest.mark.parametrize(
    ("path", "value", "where"),
    [
        ("metadata.name", "Web", "metadata.name"),
        ("metadata.name", 5, "metadata.name"),
        ("spec.restartPolicy", "Sometimes", "spec.restartPolicy"),
        ("spec.containers", [], "spec.containers"),
        ("spec.containers.0.image", None, "spec.containers[0].image"),
        ("spec.containers.0.ports", [{"containerPort": 70000}], "spec.containers[0].ports[0].containerPort"),
        ("spec.containers.0.env", [{"name": "A", "value": 1}], "spec.containers[0].env[0].value"),
        ("spec.containers.0.resources", {"limits": {"memory": "64MB"}}, "spec.containers[0].resources.limits.memory"),
        ("spec.containers.0.resources", {"limits": {"cpu": 0}}, "spec.containers[0].resources.limits.cpu"),
        ("spec.containers.0.resources", {"limits": {"cpu": True}}, "spec.containers[0].resources.limits.cpu"),
        (
            "spec.containers.0.readinessProbe",
            {"httpGet": {"port": "web"}},
            "spec.containers[0].readinessProbe.httpGet.port",
        ),
        ("spec.containers.0.readinessProbe", {}, "spec.containers[0].readinessProbe"),
        (
            "spec.containers.0.volumeMounts",
            [{"name": "x", "mountPath": "/x"}],
            "spec.containers[0].volumeMounts[0].name",
        ),
        ("spec.automountServiceAccountToken", True, "spec.automountServiceAccountToken"),
        ("spec.hostNetwork", "yes", "spec.hostNetwork"),
        ("spec.dnsPolicy", "None", "spec.dnsConfig.nameservers"),
        ("kind", "Deployment", "kind"),
        ("spec", None, "spec"),
    ],
)
def test_a_wrong_value_is_refused_at_its_key(path, value, where):
    assert where in [problem.path for problem in manifest.check(changed(path, value))]


def test_all_problems_are_told_at_once():
    document = changed("spec.restartPolicy", "x")
    document["metadata"]["name"] = "UPPER"
    document["spec"]["containers"][0]["image"] = 1
    assert len(manifest.check(document)) == 3


def test_a_slip_of_the_pen_gets_a_suggestion():
    (problem,) = manifest.check(changed("spec.containers.0.comand", ["x"]))
    assert "did you mean command?" in problem.message


def test_two_containers_may_not_share_a_name_or_a_host_port():
    twin = {"name": "main", "image": "x", "ports": [{"containerPort": 1, "hostPort": 80}]}
    other = {**twin, "ports": [{"containerPort": 2, "hostPort": 80}]}
    paths = {problem.path for problem in manifest.check(changed("spec.containers", [twin, other]))}
    assert "spec.containers" in paths
    other["name"] = "other"
    paths = {problem.path for problem in manifest.check(changed("spec.containers", [twin, other]))}
    assert paths == {"spec.containers[1].ports[0].hostPort"}


@pytest.mark.parametrize("path", ["../x", "a/../../b", "/etc", ".."])
def test_a_sub_path_that_leaves_its_volume_is_refused(path):
    document = changed("spec.volumes", [{"name": "v", "emptyDir": {}}])
    document["spec"]["containers"][0]["volumeMounts"] = [{"name": "v", "mountPath": "/x", "subPath": path}]
    assert [p.path for p in manifest.check(document)] == ["spec.containers[0].volumeMounts[0].subPath"]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["apiVersion", "kind", "metadata", "spec", "name", "containers", "image", "env"]),
                inner,
                max_size=4,
            )
        ),
    )
)
def test_no_document_crashes_the_check(document):
    assert all(isinstance(problem, documents.Problem) for problem in manifest.check(document))


def test_hash_follows_meaning_and_not_form(tmp_path):
    first, second, third = (tmp_path / f"{n}.yaml" for n in "abc")
    text = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: a, image: b}]}\n"
    first.write_text(text)
    second.write_text(
        "# a comment\nkind: Pod\napiVersion: v1\nspec: {containers: [{image: b, name: a}]}\nmetadata:\n  name: web\n"
    )
    third.write_text(text.replace("image: b", "image: c"))
    one, two, three = (manifest.load(path) for path in (first, second, third))
    assert one.hash == two.hash != three.hash
    assert one.uid == three.uid  # so that logs stay in one place


def test_hash_follows_the_default_runtime_of_pods_that_name_none():
    plain, named = MINIMAL, changed("spec.runtimeClassName", "runc")
    hashes = [
        [manifest.Pod(document, "x.yaml", handler).hash for handler in ("runc", "microvm")]
        for document in (plain, named)
    ]
    assert hashes[0][0] != hashes[0][1]
    assert hashes[1][0] == hashes[1][1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: [", "is not YAML"),
        ("", "found 0"),
        ("kind: Pod\n---\nkind: Pod\n", "found 2"),
        ("\xff", "control characters|not YAML|expected a mapping"),
        ("- 1\n", "expected a mapping"),
    ],
)
def test_a_file_that_holds_no_pod_is_an_error_with_its_name(tmp_path, content, message):
    path = tmp_path / "x.yaml"
    path.write_text(content)
    with pytest.raises(manifest.ManifestError, match=message) as caught:
        manifest.load(path)
    assert str(path) in str(caught.value)


def test_a_directory_gives_its_good_pods_and_names_its_bad_files(tmp_path):
    good = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: a, image: b}]}\n"
    (tmp_path / "a.yaml").write_text(good)
    (tmp_path / "b.yml").write_text(good)  # the same name again
    (tmp_path / "c.json").write_text("{")
    (tmp_path / ".hidden.yaml").write_text("{")
    (tmp_path / "notes.txt").write_text("{")
    pods, errors = manifest.load_directory(tmp_path)
    assert {name: Path(pod.source).name for name, pod in pods.items()} == {"web": "a.yaml"}
    assert sorted(Path(error.source).name for error in errors) == ["b.yml", "c.json"]


@pytest.mark.parametrize(
    ("text", "value"), [("500m", "0.5"), ("64Mi", 67108864), (2, 2), ("1.5G", 1500000000), ("1e3", 1000)]
)
def test_quantities_are_kubernetes_own(text, value):
    assert parse_quantity(text) == parse_quantity(str(value))


@pytest.mark.parametrize("text", ["64MB", "", "Mi", "1 Gi", "-1", "1..2"])
def test_what_is_no_quantity_is_an_error(text):
    with pytest.raises(ValueError):
        parse_quantity(text)


def test_kubernetes_types_are_as_kubernetes_publishes_them():
    pytest.importorskip("kubernetes_validate")
    script = Path(__file__).parents[2] / "scripts/pod_schema.py"
    made = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True).stdout
    assert made == (script.parents[1] / "appliance/node/pods/kubernetes.json").read_text(), (
        "run: python scripts/pod_schema.py > appliance/node/pods/kubernetes.json"
    )


def test_every_field_of_the_tables_is_one_of_kubernetes():
    named = [(kind, field) for kind, rules in fields.SUPPORTED.items() for field in rules if field]
    named += [tuple(name.split(".")) for name in fields.INSTEAD]
    assert [name for name in named if name[1] not in schema.published()[name[0]].get("properties", {})] == []
    assert [name for name in fields.INSTEAD if name.split(".")[1] in fields.SUPPORTED[name.split(".")[0]]] == []


def test_what_was_found_right_is_not_checked_again_until_it_changes(tmp_path):
    path, checked, asked = tmp_path / "x.yaml", tmp_path / "checked", []

    def load():
        return documents.load(path, "Pod", lambda document: asked.append(document) or [], checked)[0]

    path.write_text("a: 1\n")
    assert load() == load() == {"a": 1}
    assert len(asked) == 1
    assert checked.stat().st_mode & 0o777 == 0o600
    path.write_text("a: 2\n")
    load()
    assert len(asked) == 2


def test_what_was_found_wrong_is_found_wrong_again(tmp_path):
    path, checked = tmp_path / "x.yaml", tmp_path / "checked"
    path.write_text("a: 1\n")
    for _ in range(2):
        with pytest.raises(manifest.ManifestError, match="no good"):
            documents.load(path, "Pod", lambda _: [documents.Problem("a", "no good")], checked)


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"hostNetwork": True}, "spec.hostNetwork"),
        ({"hostPID": True}, "spec.hostPID"),
        ({"hostIPC": True}, "spec.hostIPC"),
        ({"shareProcessNamespace": True}, "spec.shareProcessNamespace"),
        ({"volumes": [{"name": "v", "hostPath": {"path": "/x", "type": "Socket"}}]}, "spec.volumes[0].hostPath.type"),
    ],
)
def test_what_a_microvm_cannot_do_is_told_for_it_alone(changes, where):
    document = copy.deepcopy(MINIMAL)
    document["spec"] |= changes
    assert [p.path for p in manifest.check(document, "microvm")] == [where]
    assert manifest.check(document, "runc") == manifest.check(document) == []
    document["spec"]["runtimeClassName"] = "microvm"
    assert [p.path for p in manifest.check(document, "runc")] == [where]
