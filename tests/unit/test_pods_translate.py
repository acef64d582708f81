"""What the engine is asked for, given a manifest."""

import json

import pytest

from appliance.node.pods import hooks, manifest, translate


def pod(spec=None, **container):
    document = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "web", "annotations": {"io.casemate.x": "y"}},
        "spec": {"containers": [{"name": "main", "image": "i:1", **container}], **(spec or {})},
    }
    assert manifest.check(document) == []
    return manifest.Pod(document, "x.yaml")


def container_of(the_pod, around=None, user=None):
    around = around or translate.Surroundings()
    return translate.container_config(the_pod, the_pod.containers[0], 0, "sha256:1", user, around)


def test_limits_become_quota_shares_and_bytes():
    resources = translate.container_resources({"resources": {"limits": {"cpu": "500m", "memory": "64Mi"}}})
    assert resources == {
        "cpu_period": 100000, "cpu_quota": 50000, "cpu_shares": 512, "memory_limit_in_bytes": 64 << 20
    }  # fmt: skip


def test_the_pods_size_is_the_sum_of_its_containers():
    two = [{"name": n, "image": "i", "resources": {"limits": {"memory": "100Mi", "cpu": 1}}} for n in ("a", "b")]
    resources = translate.pod_resources(pod({"containers": two}))
    assert resources["memory_limit_in_bytes"] == 200 << 20
    assert resources["cpu_quota"] == 200000


def test_a_pod_with_one_unlimited_container_is_unlimited():
    two = [{"name": "a", "image": "i", "resources": {"limits": {"memory": "100Mi"}}}, {"name": "b", "image": "i"}]
    resources = translate.pod_resources(pod({"containers": two}))
    assert not {"cpu_quota", "memory_limit_in_bytes"} & resources.keys()


def test_a_container_that_asks_for_no_processor_weighs_as_one_that_asks_for_one():
    asked = {"requests": {"cpu": 1}}
    assert translate.container_resources({}) == translate.container_resources({"resources": asked})


def test_variables_are_expanded_in_order_and_unknown_ones_stay():
    the_pod = pod(
        command=["$(A)", "$$(A)", "$(NOPE)"],
        env=[{"name": "A", "value": "1"}, {"name": "B", "value": "$(A)$(C)"}, {"name": "C", "value": "3"}],
    )
    config = container_of(the_pod)
    assert config["command"] == ["1", "$(A)", "$(NOPE)"]
    assert {entry["key"]: entry["value"] for entry in config["envs"]} == {"A": "1", "B": "1$(C)", "C": "3"}


def test_downward_fields_and_config_maps_reach_the_environment():
    the_pod = pod(
        env=[
            {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "K", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "k"}}},
            {"name": "GONE", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "no", "optional": True}}},
        ]
    )
    around = translate.Surroundings(address="10.0.0.9", load=lambda kind, name, optional: {"k": b"v"})
    config = container_of(the_pod, around)
    assert {entry["key"]: entry["value"] for entry in config["envs"]} == {"IP": "10.0.0.9", "K": "v"}


def test_a_missing_config_map_key_is_an_error_that_names_it():
    the_pod = pod(env=[{"name": "K", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "no"}}}])
    with pytest.raises(translate.PodConfigError, match=r"env K.*'no'"):
        container_of(the_pod, translate.Surroundings(load=lambda kind, name, optional: {}))


def test_seccomp_is_on_unless_it_is_turned_off():
    assert container_of(pod())["linux"]["security_context"]["seccomp"] == {"profile_type": "RuntimeDefault"}
    off = pod(securityContext={"seccompProfile": {"type": "Unconfined"}})
    assert container_of(off)["linux"]["security_context"]["seccomp"] == {"profile_type": "Unconfined"}


@pytest.mark.parametrize(("image_user", "fine"), [(None, False), (0, False), ("app", False), (65534, True)])
def test_run_as_non_root_holds_the_image_to_it(image_user, fine):
    the_pod = pod(securityContext={"runAsNonRoot": True})
    if fine:
        container_of(the_pod, user=image_user)
    else:
        with pytest.raises(translate.PodConfigError, match="runAsNonRoot"):
            container_of(the_pod, user=image_user)


def test_the_containers_security_context_wins_over_the_pods():
    the_pod = pod({"securityContext": {"runAsUser": 1}}, securityContext={"runAsUser": 2})
    assert container_of(the_pod)["linux"]["security_context"]["run_as_user"] == {"value": 2}


def test_only_host_ports_are_mapped():
    the_pod = pod(ports=[{"containerPort": 80}, {"containerPort": 53, "hostPort": 5353, "protocol": "UDP"}])
    config = translate.sandbox_config(the_pod, 0, "")
    assert config["port_mappings"] == [
        {"protocol": "UDP", "container_port": 53, "host_port": 5353, "host_ip": ""}
    ]  # fmt: skip


def test_the_sandbox_carries_the_manifests_hash_and_its_own_annotations():
    the_pod = pod()
    annotations = translate.sandbox_config(the_pod, 0, "")["annotations"]
    assert annotations[translate.HASH_ANNOTATION] == the_pod.hash
    assert annotations["io.casemate.x"] == "y"


def test_a_pods_own_labels_cannot_pose_as_the_runners():
    the_pod = pod()
    the_pod.manifest["metadata"]["labels"] = {translate.NAME_LABEL: "other"}
    assert translate.sandbox_config(the_pod, 0, "")["labels"][translate.NAME_LABEL] == "web"


def test_resolver_settings_come_from_the_host_and_dns_config_adds():
    host = "nameserver 10.1.1.1\nsearch a b\noptions ndots:2\n# x\n"
    the_pod = pod({"dnsConfig": {"nameservers": ["1.1.1.1"], "options": [{"name": "timeout", "value": "1"}]}})
    assert translate.dns_config(the_pod, host) == {
        "servers": ["10.1.1.1", "1.1.1.1"], "searches": ["a", "b"], "options": ["ndots:2", "timeout:1"]
    }  # fmt: skip
    alone = pod({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1"]}})
    assert translate.dns_config(alone, host)["servers"] == ["1.1.1.1"]


def test_variables_from_whole_objects_come_first_and_single_ones_win():
    the_pod = pod(
        envFrom=[{"prefix": "M_", "configMapRef": {"name": "m"}}, {"secretRef": {"name": "s"}}],
        env=[{"name": "k", "valueFrom": {"secretKeyRef": {"name": "s", "key": "other"}}}],
    )
    objects = {("ConfigMap", "m"): {"k": b"1"}, ("Secret", "s"): {"k": b"2", "other": b"3"}}
    config = container_of(the_pod, translate.Surroundings(load=lambda kind, name, optional: objects[kind, name]))
    assert {e["key"]: e["value"] for e in config["envs"]} == {"M_k": "1", "k": "3", "other": "3"}


def test_a_value_that_is_no_text_cannot_be_a_variable_and_is_not_shown():
    the_pod = pod(env=[{"name": "K", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}])
    with pytest.raises(translate.PodConfigError, match="use a volume") as caught:
        container_of(the_pod, translate.Surroundings(load=lambda kind, name, optional: {"k": b"hidden\xff"}))
    assert "hidden" not in str(caught.value)


def test_labels_and_annotations_are_told_singly():
    variables = [
        {"name": n, "valueFrom": {"fieldRef": {"fieldPath": f"metadata.{where}['{key}']"}}}
        for n, where, key in (("A", "annotations", "io.casemate.x"), ("B", "labels", "no"))
    ]
    config = container_of(pod(env=variables))
    assert {e["key"]: e["value"] for e in config["envs"]} == {"A": "y", "B": ""}


def test_namespaces_of_the_host_and_of_the_pod():
    def namespaces(**spec):
        return translate.sandbox_config(pod(spec), 0, "")["linux"]["security_context"]["namespace_options"]

    assert namespaces() == {"network": "POD", "pid": "CONTAINER", "ipc": "POD"}
    assert namespaces(hostPID=True, hostIPC=True, hostNetwork=True) == dict.fromkeys(("network", "pid", "ipc"), "NODE")
    assert namespaces(shareProcessNamespace=True)["pid"] == "POD"


def test_a_stop_hook_travels_with_its_container_and_needs_no_manifest():
    the_pod = pod(
        ports=[{"name": "web", "containerPort": 80}],
        lifecycle={"preStop": {"httpGet": {"port": "web", "path": "/bye"}}},
    )
    annotations = container_of(the_pod, translate.Surroundings(address="10.0.0.9"))["annotations"]
    assert json.loads(annotations[hooks.PRE_STOP_ANNOTATION]) == {
        "httpGet": {"port": 80, "path": "/bye", "host": "10.0.0.9"}
    }
