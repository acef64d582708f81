"""What a sync does, given what is declared and what is there."""

from appliance.node.pods import manifest, state
from appliance.node.pods.plan import plan


def pod(name, image="i"):
    spec = {"containers": [{"name": "main", "image": image}]}
    return manifest.Pod(
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}, f"/m/{name}.yaml"
    )


def known(the_pod, **changes):
    return state.PodState(the_pod.name, "default", the_pod.source, **{"hash": the_pod.hash, **changes})


WEB = pod("web")


def test_a_pod_that_runs_as_declared_is_left_alone():
    todo = plan({"web": WEB}, [], {"web": known(WEB)}, {"web": "active"}, {"web"})
    assert (todo.start, todo.remove) == (set(), set())


def test_a_new_pod_is_started():
    assert plan({"web": WEB}, [], {}, {}, set()).start == {"web"}


def test_a_changed_manifest_a_dead_unit_and_a_new_release_each_restart_the_runner():
    assert plan({"web": pod("web", "j")}, [], {"web": known(WEB)}, {"web": "active"}, {"web"}).start == {"web"}
    assert plan({"web": WEB}, [], {"web": known(WEB)}, {"web": "failed"}, {"web"}).start == {"web"}
    assert plan({"web": WEB}, [], {"web": known(WEB, release="/old")}, {"web": "active"}, {"web"}).start == {"web"}


def test_what_is_no_longer_declared_is_removed_wherever_it_is_known_from():
    assert plan({}, [], {"web": known(WEB)}, {}, set()).remove == {"web"}
    assert plan({}, [], {}, {"web": "failed"}, set()).remove == {"web"}
    assert plan({}, [], {}, {}, {"web"}).remove == {"web"}


def test_a_unit_that_has_long_ended_is_nothing_to_remove():
    assert plan({}, [], {}, {"web": "inactive"}, set()).remove == set()


def test_a_manifest_that_became_unreadable_does_not_stop_its_pod():
    broken = [manifest.ManifestError(WEB.source, ["is not YAML"])]
    todo = plan({}, broken, {"web": known(WEB)}, {"web": "active"}, {"web"})
    assert (todo.start, todo.remove) == (set(), set())
