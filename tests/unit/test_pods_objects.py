"""ConfigMaps and Secrets in files: what they hold, what is wrong with them, and that no secret is told."""

import base64
import json

import pytest

from appliance.node.pods import objects, pull
from appliance.node.pods.documents import ManifestError


@pytest.fixture
def write(tmp_path):
    """Write an object's file in an /etc/casemate of its own; returns that directory."""

    def put(kind, name, content, mode=0o600):
        folder = tmp_path / objects.FOLDERS[kind]
        folder.mkdir(exist_ok=True)
        path = folder / f"{name}.yaml"
        if isinstance(content, dict):
            content = json.dumps({"apiVersion": "v1", "kind": kind, "metadata": {"name": name}, **content})
        path.write_text(content)
        path.chmod(mode)
        return tmp_path

    return put


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_entries_of_both_kinds(write):
    root = write("ConfigMap", "m", {"data": {"a": "1"}, "binaryData": {"b": encoded(b"\xff\0")}})
    write("Secret", "s", {"data": {"a": encoded(b"2"), "b": "Mw==\n"}, "stringData": {"a": "4"}})
    assert objects.load("ConfigMap", "m", root=root) == {"a": b"1", "b": b"\xff\0"}
    assert objects.load("Secret", "s", root=root) == {"a": b"4", "b": b"3"}  # stringData wins


def test_a_missing_object_is_an_error_unless_it_is_optional(tmp_path):
    assert objects.load("Secret", "s", optional=True, root=tmp_path) == {}
    with pytest.raises(ManifestError, match=r"secrets/s\.yaml: does not exist; the pod needs this Secret"):
        objects.load("Secret", "s", root=tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"stringData": {"password": 12345678}}, "stringData.password: expected a string"),
        ({"data": {"password": "hunter2!"}}, "data.password: expected base64"),
        ({"data": {"../x": ""}}, "data: expected a key"),
        ({"metadata": {"name": "other"}, "stringData": {"a": "hunter2!"}}, "metadata.name: expected 's'"),
        ({"stringdata": {"a": "hunter2!"}}, "stringdata: is no field of Kubernetes 1.32; did you mean stringData?"),
        ({"kind": "ConfigMap"}, "kind: expected Secret"),
        ("stringData: {a: hunter2!\n", "is not YAML: line 2"),
        ("stringData: {a: hunter2!, a: 12345678}\n", "line 1: key 'a' is written twice"),
    ],
)
def test_a_wrong_secret_is_told_with_file_and_key_and_without_its_value(write, content, message):
    root = write("Secret", "s", content)
    with pytest.raises(ManifestError) as caught:
        objects.load("Secret", "s", root=root)
    assert f"{root}/secrets/s.yaml: {message}" in str(caught.value)
    assert "hunter2" not in str(caught.value) and "12345678" not in str(caught.value)


def test_a_secret_that_others_may_read_is_refused_with_the_cure(write):
    root = write("Secret", "s", {}, mode=0o644)
    with pytest.raises(ManifestError, match="chmod 600"):
        objects.load("Secret", "s", root=root)
    (root / "secrets").chmod(0o700)  # nobody gets there
    assert objects.load("Secret", "s", root=root) == {}


def test_the_digest_follows_every_object_that_a_pod_names(write):
    spec = {
        "containers": [{
            "env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "m1", "key": "k"}}}],
            "envFrom": [{"secretRef": {"name": "s1"}}],
        }],
        "volumes": [{"secret": {"secretName": "s2"}}, {"projected": {"sources": [{"configMap": {"name": "m2"}}]}}],
        "imagePullSecrets": [{"name": "s3"}],
    }  # fmt: skip
    named = [("ConfigMap", "m1"), ("Secret", "s1"), ("Secret", "s2"), ("ConfigMap", "m2"), ("Secret", "s3")]
    assert sorted(objects.references(spec)) == sorted(named)
    seen = set()
    for kind, name in named:
        key = "data" if kind == "ConfigMap" else "stringData"
        for value in ("1", "2"):
            seen.add(objects.digest(spec, write(kind, name, {key: {"k": value}})))
    assert len(seen) == 2 * len(named)
    assert objects.digest({"containers": [{}]}) == ""


def test_pull_credentials_are_what_docker_login_writes(write):
    auths = {"registry.example:5000": {"auth": encoded(b"me:a:b")}, "other.example": {"username": "u", "password": "p"}}
    root = write("Secret", "s", {"stringData": {".dockerconfigjson": json.dumps({"auths": auths})}})
    assert objects.pull_credentials("s", root) == {
        "registry.example:5000": {"username": "me", "password": "a:b"},
        "other.example": {"username": "u", "password": "p"},
    }
    write("Secret", "s", {"stringData": {".dockerconfigjson": '{"auths": {"x": {"auth": "hunter2!"}}}'}})
    with pytest.raises(ManifestError) as caught:
        objects.pull_credentials("s", root)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("registry", "image", "fits"),
    [
        ("https://index.docker.io/v1/", "busybox:1", True),
        ("https://index.docker.io/v1/", "me/app", True),
        ("docker.io", "registry.example/app", False),
        ("registry.example:5000", "registry.example:5000/a/b:1", True),
        ("registry.example", "registry.example:5000/a", False),
        ("registry.example/team", "registry.example/team/app", True),
        ("registry.example/team", "registry.example/teamwork/app", False),
        ("localhost", "localhost/app", True),
    ],
)
def test_a_credential_is_for_the_images_of_its_registry(registry, image, fits):
    assert pull.is_for(registry, image) is fits
