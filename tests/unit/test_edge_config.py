"""EdgeCore's configuration: what is written, and that a file which EdgeCore wrote anew is known again."""

import ast

import pytest
import yaml

from appliance.node.edge import config
from appliance.node.edge.settings import Artifact, Declared
from appliance.node.pods.settings import Settings
from tests.standins import release

DECLARED = Declared(
    version="v1.23.1",
    artifact=Artifact("http://192.0.2.1/x.tar.gz", f"sha256:{'0' * 64}", "x"),
    cloud="192.0.2.1:10000",
    cloud_https="192.0.2.1:10002",
    node_name="edge1",
    node_labels={"site": "north"},
    broker="mosquitto",
    broker_address="127.0.0.1:1883",
)


def declared(**changes) -> Declared:
    return Declared(**{**DECLARED.__dict__, **changes})


def render(token="", **changes) -> dict:
    return config.render(declared(**changes), Settings(), token)


@pytest.fixture
def standin():
    """The stand-in's idea of EdgeCore: the keys that it knows, and what it makes of a file."""
    wanted = {"known", "merged", "without_empty", "unknown"}
    names = {"TLS", "KUBELET", "EDGED", "PROTOCOL", "KEYS", "DEFAULTS"}
    tree = ast.parse(release.STANDIN.read_text())
    kept = [
        node
        for node in tree.body
        if (isinstance(node, ast.FunctionDef) and node.name in wanted)
        or (isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") in names)
    ]
    namespace: dict = {}
    exec(compile(ast.Module(kept, []), str(release.STANDIN), "exec"), namespace)
    return namespace


@pytest.mark.parametrize("changes", [{}, {"node_ip": "192.0.2.11", "metaserver": "127.0.0.1:10550", "dmi": True}])
def test_every_key_is_one_that_edgecore_knows(standin, changes):
    assert standin["unknown"](render(**changes), standin["KEYS"]) == []


def test_a_key_that_edgecore_does_not_know_is_seen(standin):
    document = render()
    document["modules"]["edged"]["runtimeType"] = "remote"
    assert standin["unknown"](document, standin["KEYS"]) == ["modules.edged.runtimeType"]


def test_the_file_that_edgecore_wrote_anew_has_no_difference_and_one_changed_by_hand_has(standin, tmp_path):
    file = tmp_path / "edgecore.yaml"
    written = standin["merged"](standin["DEFAULTS"], render(token="a.b.c.d"))
    written["modules"]["edgeHub"]["token"] = ""
    del written["edgecoreVersion"]
    file.write_text(yaml.safe_dump(standin["without_empty"](written)))
    assert config.differences(render(), file) == []
    assert config.differences(render(node_labels={}), file) == ["modules.edged.nodeLabels"]
    assert config.differences(render(node_labels={"site": "south"}), file) == ["modules.edged.nodeLabels"]
    written["modules"]["edged"]["tailoredKubeletConfig"]["enableDebuggingHandlers"] = True
    file.write_text(yaml.safe_dump(written))
    assert config.differences(render(), file) == ["modules.edged.tailoredKubeletConfig.enableDebuggingHandlers"]


def test_an_option_that_is_taken_back_is_a_difference(tmp_path):
    file = tmp_path / "edgecore.yaml"
    config.write(render(metaserver="127.0.0.1:10550", dmi=True, static_pods=True), file)
    assert config.differences(render(), file) == [
        "modules.edged.tailoredKubeletConfig.staticPodPath",
        "modules.metaManager.metaServer.enable",
        "modules.deviceTwin.enable",
    ]


@pytest.mark.parametrize("text", [None, "", "a: [", "just text"])
def test_a_file_that_is_missing_or_broken_is_a_difference(tmp_path, text):
    file = tmp_path / "edgecore.yaml"
    if text is not None:
        file.write_text(text)
    assert config.differences(render(), file)


def test_the_token_is_written_for_root_alone_forgotten_afterwards_and_never_counts(tmp_path):
    file = tmp_path / "config/edgecore.yaml"
    config.write(render("ca.head.body.secret"), file)
    assert file.stat().st_mode & 0o777 == 0o600
    assert "secret" in file.read_text()
    assert config.differences(render(), file) == []
    assert config.digest(render()) == config.digest(render("ca.head.body.secret"))
    config.forget_token(file)
    assert "secret" not in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600


def test_exactly_one_way_to_the_cloud_is_on_and_no_debugging_handler():
    modules = render()["modules"]
    assert [modules["edgeHub"][one]["enable"] for one in ("websocket", "quic")] == [True, False]
    kubelet = modules["edged"]["tailoredKubeletConfig"]
    assert kubelet["enableDebuggingHandlers"] is False
    assert kubelet["address"] == "127.0.0.1"
    assert "readOnlyPort" not in kubelet, "0 blocks the synchronisation of pods"
