"""The runner, against an engine made of memory: what it does follows from what it finds."""

import json
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest

from appliance.node.pods import manifest, runner, state, translate
from appliance.node.pods.cri_model import CriError
from appliance.node.pods.settings import Settings

READY, DOWN = 0, 1
CREATED, RUNNING, EXITED = 0, 1, 2


class Engine:
    """Sandboxes and containers as CRI tells of them; `calls` are the methods that changed something."""

    def __init__(self):
        self.boxes, self.made, self.calls = [], [], []
        self.images = {"i:1"}

    def sandboxes(self, labels=None):
        fits = [box for box in self.boxes if (labels or {}).items() <= box.labels.items()]
        return sorted(fits, key=lambda box: -box.created_at)

    def containers(self, sandbox_id=""):
        return [c for c in reversed(self.made) if sandbox_id in ("", c.pod_sandbox_id)]

    def address(self, sandbox_id):
        return "10.86.0.9"

    def call(self, method, deadline=30, /, **fields):
        if method not in ("ImageStatus", "ContainerStatus", "PodSandboxStatus"):
            self.calls.append(method)
        return getattr(self, f"_{method}")(**fields)

    def _ImageStatus(self, image):
        found = image["image"] in self.images
        inner = SimpleNamespace(id="sha256:1", username="", HasField=lambda name: False)
        return SimpleNamespace(image=inner, HasField=lambda name: found)

    def _PullImage(self, image):
        raise CriError("PullImage", "UNKNOWN", "no such host", "/x.sock")

    def _RunPodSandbox(self, config, runtime_handler):
        box = SimpleNamespace(
            id=f"box{len(self.boxes)}", state=READY, created_at=time.time_ns(), handler=runtime_handler,
            labels=config["labels"], annotations=config["annotations"], metadata=SimpleNamespace(**config["metadata"]),
            cgroup_parent=config["linux"]["cgroup_parent"],
        )  # fmt: skip
        self.boxes.append(box)
        return SimpleNamespace(pod_sandbox_id=box.id)

    def _PodSandboxStatus(self, pod_sandbox_id, verbose=False):
        return SimpleNamespace(status=next(box for box in self.boxes if box.id == pod_sandbox_id), info={})

    def _StopPodSandbox(self, pod_sandbox_id):
        next(box for box in self.boxes if box.id == pod_sandbox_id).state = DOWN

    def _RemovePodSandbox(self, pod_sandbox_id):
        self.boxes = [box for box in self.boxes if box.id != pod_sandbox_id]
        self.made = [c for c in self.made if c.pod_sandbox_id != pod_sandbox_id]

    def _CreateContainer(self, pod_sandbox_id, config, sandbox_config):
        container = SimpleNamespace(
            id=f"c{len(self.calls)}", pod_sandbox_id=pod_sandbox_id, labels=config["labels"], state=CREATED,
            annotations=config["annotations"], metadata=SimpleNamespace(**config["metadata"]), exit_code=0,
            started_at=0, finished_at=0, reason="", message="",
        )  # fmt: skip
        self.log(config["log_path"])
        self.made.append(container)
        return SimpleNamespace(container_id=container.id)

    def _find(self, container_id):
        return next(c for c in self.made if c.id == container_id)

    def _StartContainer(self, container_id):
        self._find(container_id).state = RUNNING

    def _StopContainer(self, container_id, timeout):
        self.end(self._find(container_id), 137)

    def _RemoveContainer(self, container_id):
        self.made.remove(self._find(container_id))

    def _ContainerStatus(self, container_id, verbose=False):
        return SimpleNamespace(status=self._find(container_id), info={})

    def end(self, container, code, ago=0.0):
        container.state, container.exit_code = EXITED, code
        container.finished_at = int((time.time() - ago) * 1e9)
        container.started_at = container.finished_at - 10**9


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "log_directory", lambda pod: tmp_path / "log")
    monkeypatch.setattr(Engine, "log", lambda _, path: (tmp_path / "log" / path).touch(), raising=False)
    monkeypatch.setattr(runner.state, "DIRECTORY", tmp_path / "run")
    monkeypatch.setattr(runner.state, "write", lambda known: None)
    monkeypatch.setattr(runner.volumes, "write_hosts", lambda pod, address: tmp_path / "hosts")
    monkeypatch.setattr(runner.volumes, "remove", lambda name: None)
    monkeypatch.setattr(runner.volumes, "prepare", lambda pod, in_use: {})


def pod(image="i:1", **spec):
    document = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "web"},
        "spec": {"containers": [{"name": "main", "image": image}], **spec},
    }
    assert manifest.check(document) == []
    return manifest.Pod(document, "web.yaml")


def settled(one):
    """Wait for what is being done to containers."""
    for work in list(one._busy.values()):
        work.join(10)


def started(engine, the_pod):
    one = runner.Runner(the_pod, engine, Settings())
    one.step()
    one.step()
    return one


def test_a_pod_is_ready_once_its_containers_run():
    one = started(Engine(), pod())
    assert (one.state.state, one.state.ready, one.state.ip) == ("running", True, "10.86.0.9")


def test_a_second_runner_adopts_what_runs_and_changes_nothing():
    engine = Engine()
    started(engine, pod())
    engine.calls.clear()
    two = runner.Runner(pod(), engine, Settings())
    two.step()
    assert two.state.ready
    assert engine.calls == []


def test_another_manifest_replaces_the_sandbox():
    engine = Engine()
    started(engine, pod())
    started(engine, pod(hostname="other"))
    assert [box.id for box in engine.boxes] == ["box0"]  # the former one was removed before
    assert engine.calls.count("RemovePodSandbox") == 1
    assert engine.calls.count("StopContainer") == 1


def test_a_dead_sandbox_is_made_anew_and_restarts_count_on():
    engine = Engine()
    one = started(engine, pod())
    engine.boxes[0].state = DOWN
    engine.end(engine.made[0], 137)
    one.step()
    one.step()
    assert one.state.ready
    assert one.state.restarts == {"main": 1}
    assert [event["reason"] for event in one.state.events] == ["Started", "SandboxChanged", "Started"]


def test_the_runtime_class_is_the_handler_and_without_one_the_default_is():
    engine = Engine()
    started(engine, pod(runtimeClassName="runc"))
    assert engine.boxes[0].handler == "runc"
    engine = Engine()
    started(engine, replace(pod(), default_handler="microvm"))
    assert engine.boxes[0].handler == "microvm"


@pytest.mark.parametrize(
    ("driver", "parent"), [("systemd", "/casemate.slice/casemate-web.slice"), ("cgroupfs", "/k8s.io/pod_web")]
)
def test_a_pod_has_a_control_group_of_its_own(driver, parent):
    engine = Engine()
    runner.Runner(pod(), engine, Settings(cgroup_driver=driver)).step()
    assert engine.boxes[0].cgroup_parent == parent


def test_a_crashing_container_is_started_at_once_and_then_after_a_back_off():
    engine = Engine()
    one = started(engine, pod())
    engine.end(engine.made[0], 3)
    one.step()
    assert engine.made[-1].state == RUNNING
    engine.end(engine.made[-1], 3)
    one.step()
    assert engine.made[-1].state == EXITED
    assert "CrashLoopBackOff: container main exited 3" in one.state.reason
    engine.end(engine.made[-1], 3, ago=11)
    one.step()
    assert engine.made[-1].state == RUNNING
    one.step()
    assert len(engine.made) == 1  # ended ones are removed


@pytest.mark.parametrize(
    ("policy", "code", "ends"),
    [("Never", 0, "succeeded"), ("Never", 2, "failed"), ("OnFailure", 0, "succeeded"), ("OnFailure", 2, "running")],
)
def test_the_restart_policy_decides_what_an_end_means(policy, code, ends):
    engine = Engine()
    one = started(engine, pod(restartPolicy=policy))
    engine.end(engine.made[0], code)
    one.step()
    assert one.state.state == ends
    assert (engine.made[-1].state == RUNNING) == (ends == "running")


def test_init_containers_run_to_their_end_one_after_the_other_before_the_rest():
    engine = Engine()
    one = runner.Runner(pod(initContainers=[{"name": n, "image": "i:1"} for n in ("a", "b")]), engine, Settings())
    names = []
    for _ in range(4):
        one.step()
        latest = engine.made[-1]
        names.append(latest.metadata.name)
        if latest.state == RUNNING and latest.metadata.name != "main":
            engine.end(latest, 0)
    assert names == ["a", "b", "main", "main"]
    assert one.state.ready


def test_a_missing_image_costs_no_sandbox():
    engine = Engine()
    one = runner.Runner(pod(image="gone:1"), engine, Settings())
    with pytest.raises(CriError, match="no such host"):
        one.step()
    assert engine.boxes == []


def test_the_hosts_network_is_refused_for_a_microvm():
    one = runner.Runner(replace(pod(hostNetwork=True), default_handler="microvm"), Engine(), Settings())
    with pytest.raises(translate.PodConfigError, match="runtimeClassName: runc"):
        one.step()


def test_a_failing_liveness_probe_stops_the_container_and_it_is_started_again(monkeypatch):
    engine = Engine()
    the_pod = pod()
    the_pod.containers[0]["livenessProbe"] = {"tcpSocket": {"port": 1}, "failureThreshold": 1}
    monkeypatch.setattr(runner.probes, "look", lambda *_: "refused")
    one = started(engine, the_pod)
    settled(one)
    assert "StopContainer" in engine.calls
    one.step()
    assert one.state.restarts == {"main": 0}
    assert engine.made[-1].metadata.attempt == 1


def test_a_pod_is_not_ready_before_its_readiness_probe_says_so(monkeypatch):
    answers = iter(["refused", ""])
    monkeypatch.setattr(runner.probes, "look", lambda *_: next(answers))
    the_pod = pod()
    the_pod.containers[0]["readinessProbe"] = {"tcpSocket": {"port": 1}, "periodSeconds": 1}
    clock = iter(range(0, 1000, 5))
    one = runner.Runner(the_pod, Engine(), Settings(), clock=lambda: next(clock))
    one.step()
    one.step()
    assert not one.state.ready
    assert "readinessProbe: refused" in one.state.reason
    one.step()
    assert one.state.ready


def test_a_startup_probe_holds_back_the_others_and_stops_what_never_starts(monkeypatch):
    answers = iter(["not yet", "", "dead", "not yet", "not yet"])
    asked = []

    def look(definition, *_):
        asked.append(definition["tcpSocket"]["port"])
        return next(answers)

    monkeypatch.setattr(runner.probes, "look", look)
    engine, the_pod = Engine(), pod()
    the_pod.containers[0] |= {
        "ports": [{"name": "web", "containerPort": 80}],
        "startupProbe": {"tcpSocket": {"port": "web"}, "failureThreshold": 2, "periodSeconds": 1},
        "livenessProbe": {"tcpSocket": {"port": 81}, "failureThreshold": 1, "periodSeconds": 1},
    }
    clock = iter(range(0, 1000, 5))
    one = runner.Runner(the_pod, engine, Settings(), clock=lambda: next(clock))
    for _ in range(3):  # starts, not yet, started and at once dead
        one.step()
    assert asked == [80, 80, 81]
    assert engine.calls.count("StopContainer") == 1
    for _ in range(3):  # started anew, and never up
        one.step()
    assert asked == [80, 80, 81, 80, 80]
    assert engine.calls.count("StopContainer") == 2


def test_a_probe_may_have_a_grace_period_of_its_own(monkeypatch):
    engine, the_pod, given = Engine(), pod(), []
    the_pod.containers[0]["livenessProbe"] = {
        "tcpSocket": {"port": 1}, "failureThreshold": 1, "terminationGracePeriodSeconds": 7
    }  # fmt: skip
    monkeypatch.setattr(runner.probes, "look", lambda *_: "refused")
    monkeypatch.setattr(engine, "_StopContainer", lambda container_id, timeout: given.append(timeout))
    settled(started(engine, the_pod))
    assert given == [7]


def test_a_failing_post_start_hook_stops_its_container(monkeypatch):
    engine = Engine()
    the_pod = pod(restartPolicy="Never")
    the_pod.containers[0]["lifecycle"] = {"postStart": {"exec": {"command": ["no"]}}}
    monkeypatch.setattr(runner.hooks.probes, "look", lambda *_: "no exited 1")
    one = started(engine, the_pod)
    settled(one)
    one.step()
    assert one.state.state == "failed"
    assert engine.calls.count("StopContainer") == 1


def test_a_container_waits_for_the_post_start_hooks_of_those_before_it(monkeypatch):
    engine, over = Engine(), threading.Event()
    the_pod = pod()
    the_pod.containers[0]["lifecycle"] = {"postStart": {"exec": {"command": ["long"]}}}
    the_pod.spec["containers"].append({"name": "next", "image": "i:1"})
    monkeypatch.setattr(runner.hooks.probes, "look", lambda *_: over.wait(10) and "")
    one = started(engine, the_pod)
    assert [c.metadata.name for c in engine.made] == ["main"]
    over.set()
    settled(one)
    one.step()
    one.step()
    assert [c.metadata.name for c in engine.made] == ["main", "next"]
    assert one.state.ready


def test_a_pre_stop_hook_takes_its_time_from_the_grace_period(monkeypatch):
    engine, hook, given = Engine(), {"sleep": {"seconds": 3}}, []
    moments = iter([0.0, 3.0])
    monkeypatch.setattr(runner.hooks.time, "monotonic", lambda: next(moments))
    monkeypatch.setattr(runner.hooks.time, "sleep", given.append)
    container = SimpleNamespace(
        id="c", annotations={runner.hooks.PRE_STOP_ANNOTATION: json.dumps(hook)}, metadata=SimpleNamespace(name="c")
    )
    assert runner.hooks.before_stop(engine, container, 10) == 7
    assert given == [3]
    assert runner.hooks.before_stop(engine, container, 0) == 0  # no grace, no hook


def test_a_pod_past_its_deadline_has_failed_and_stays_stopped():
    engine = Engine()
    the_pod = pod(activeDeadlineSeconds=60)
    one = started(engine, the_pod)
    assert one.state.ready
    engine.boxes[0].created_at = int((time.time() - 61) * 1e9)
    for _ in range(2):
        one.step()
        assert (one.state.state, one.state.ready) == ("failed", False)
        assert one.state.reason.startswith("DeadlineExceeded")
        one = runner.Runner(the_pod, engine, Settings())
    assert [c.state for c in engine.made] == [EXITED]


def test_a_dead_runners_state_is_not_ready(tmp_path):
    known = state.PodState("web", "default", "web.yaml", "1", pid=2**22 + 1, state="running", ready=True)
    (tmp_path / "web.json").write_text(json.dumps(asdict(known)))
    assert not state.read_all(tmp_path)["web"].ready


def crash(engine, one, ago=0.0, ran=1.0):
    """End the running container, let the runner see it, and return how long it says that the next start waits."""
    container = engine.made[-1]
    engine.end(container, 3, ago)
    container.started_at = container.finished_at - int(ran * 1e9)
    one.step()
    if engine.made[-1] is not container:
        return 0
    return int(one.state.reason.rpartition("after ")[2].removesuffix(" s"))


def test_the_back_off_doubles_to_five_minutes_whoever_the_runner_is_and_ends_after_ten_minutes_of_running():
    engine = Engine()
    the_pod = pod()
    one = started(engine, the_pod)
    waits = []
    for _ in range(9):
        waits.append(wait := crash(engine, one))
        one = runner.Runner(the_pod, engine, Settings())  # it was killed meanwhile
        if wait:
            crash(engine, one, ago=wait)
        one.step()
    assert waits == [0, 10, 20, 40, 80, 160, 300, 300, 300]
    assert one.state.restarts == {"main": 9}
    assert crash(engine, one, ran=600) == 0
    assert crash(engine, one) == 10


def test_a_date_that_is_set_back_prolongs_no_back_off():
    engine, now = Engine(), 1000.0
    one = runner.Runner(pod(), engine, Settings(), clock=lambda: now)
    for _ in range(2):
        one.step()
    assert crash(engine, one) == 0
    assert crash(engine, one, ago=-3600) == 10
    now += 11
    one.step()
    assert engine.made[-1].state == RUNNING


@pytest.mark.parametrize(("policy", "code", "ends"), [("Never", 3, "failed"), ("OnFailure", 0, "succeeded")])
def test_a_finished_pod_gives_back_its_sandbox_and_stays_finished(policy, code, ends):
    engine = Engine()
    the_pod = pod(restartPolicy=policy)
    one = started(engine, the_pod)
    engine.end(engine.made[0], code)
    one.step()
    assert engine.boxes[0].state == DOWN
    two = runner.Runner(the_pod, engine, Settings())
    two.step()
    two.step()
    assert (two.state.state, two.state.exit_codes, len(engine.boxes), len(engine.made)) == (ends, {"main": code}, 1, 1)


def test_what_ended_well_is_not_run_again_in_a_new_sandbox():
    engine = Engine()
    the_pod = pod(restartPolicy="OnFailure")
    the_pod.spec["containers"].append({"name": "job", "image": "i:1"})
    one = started(engine, the_pod)
    engine.end(engine.made[1], 0)
    one.step()
    engine.end(engine.made[0], 137)
    engine.boxes[0].state = DOWN
    for _ in range(3):
        one.step()
    two = runner.Runner(the_pod, engine, Settings())
    two.step()
    assert [c.metadata.name for c in engine.made] == ["main"]
    assert two.state.ready
    engine.end(engine.made[0], 0)
    two.step()
    assert two.state.state == "succeeded"


def test_a_sandbox_that_keeps_going_down_backs_off_too():
    engine = Engine()
    one = started(engine, pod())
    for _ in range(2):
        engine.boxes[-1].state = DOWN
        engine.end(engine.made[-1], 137)
        one.step()
    assert len(engine.calls) - len([c for c in engine.calls if c != "RunPodSandbox"]) == 2
    assert "CrashLoopBackOff" in one.state.reason


def test_a_state_that_cannot_be_written_does_not_end_the_runner(monkeypatch):
    one = started(Engine(), pod())

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(runner.state, "write", full)
    one._publish()
    written = []
    monkeypatch.setattr(runner.state, "write", written.append)
    one._publish()
    assert written == [one.state]


def test_an_engine_that_is_away_for_long_is_asked_again_all_the_time(monkeypatch):
    engine = Engine()
    one = started(engine, pod())
    pauses = []

    def gone(*_):
        raise CriError("ListPodSandbox", "UNAVAILABLE", "no such file", "/x.sock")

    def wait(seconds):
        pauses.append(seconds)
        if len(pauses) > 2000:
            raise KeyboardInterrupt

    monkeypatch.setattr(engine, "sandboxes", gone)
    monkeypatch.setattr(one._processes, "wait", wait)
    with pytest.raises(KeyboardInterrupt):
        one.run()
    assert max(pauses) <= 2
    assert one.state.events[-1]["count"] == 2001


def service(code):
    """Run code that has the runner's program; its client is left out, which needs the distribution's protobuf."""
    without = "import sys, types; sys.modules['appliance.node.pods.cri'] = types.SimpleNamespace(Cri=object); "
    script = without + "from appliance.node.pods import service; " + code
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)


def test_a_runner_holds_none_of_the_modules_that_only_others_need():
    heavy = ["argparse", "concurrent.futures", "email", "http.client", "importlib.resources", "jsonschema", "ssl",
             "subprocess", "tempfile"]  # fmt: skip
    done = service(f"print([name for name in {heavy} if name in sys.modules])")
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize(("text", "code"), [("kind: Pod\n", 2), ("{", 2), (None, 2)])
def test_a_manifest_that_cannot_be_run_ends_the_runner_for_good(tmp_path, text, code):
    path = tmp_path / "web.yaml"
    if text:
        path.write_text(text)
    done = service(f"service.main([{str(path)!r}])")
    assert (done.returncode, str(path) in done.stderr) == (code, True)
