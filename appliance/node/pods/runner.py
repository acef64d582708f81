"""The pod runner: brings one pod to what its manifest says, and keeps it there.

Each step looks at what the engine has and does the next thing, so a runner that starts anew adopts what is running.
"""

import logging
import os
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import hooks, probes, pull, state, teardown, volumes
from .cri_model import CriError, sandbox_ready, state_name
from .manifest import ManifestError, Pod, handler_problems
from .notify import notify
from .settings import Settings
from .translate import (
    CONTAINER_LABEL,
    HASH_ANNOTATION,
    PodConfigError,
    Surroundings,
    container_config,
    log_directory,
    managed_labels,
    sandbox_config,
)

if TYPE_CHECKING:
    from .cri import Cri

log = logging.getLogger("casemate-pod")

_PULL_SECONDS = 1800
_START_SECONDS = 240  # an emulated guest is slow
_BACKOFF_FIRST, _BACKOFF_LAST, _BACKOFF_FORGET = 10, 300, 600  # seconds; Kubernetes' own figures
_RETRY_LAST = 30
_ROTATE_BYTES = 10 << 20
# A pod that is not ready by then still counts as started for systemd, or a host with a bad pod would boot for ever.
_ANNOUNCE_SECONDS = 60


class Runner:
    """Runs one pod. `clock` is a monotonic clock in seconds."""

    def __init__(self, pod: Pod, cri: "Cri", settings: Settings, clock=time.monotonic):
        self.pod, self.cri, self.settings, self.clock = pod, cri, settings, clock
        self.state = state.PodState(pod.name, pod.namespace, pod.source, pod.hash, pid=os.getpid())
        self._attempts: dict[str, int] = {}  # next attempt by container, where a former sandbox had some
        self._probes: dict[tuple[str, str], probes.Probe] = {}  # by container id and kind
        self._crashes: dict[str, int] = {}
        self._surroundings: Surroundings | None = None
        self._config: dict[str, Any] = {}
        self._last = ""
        self._announced = False

    def run(self, stopping) -> None:
        """Keep the pod as declared until `stopping` (a threading.Event) is set; the pod goes on without the runner."""
        failures = 0
        late = threading.Timer(_ANNOUNCE_SECONDS, self._announce)
        late.daemon = True
        late.start()
        self._publish()
        while not stopping.is_set():
            try:
                self.step()
                failures, pause = 0, 1.0
            except (CriError, ManifestError, PodConfigError, volumes.VolumeError, OSError) as error:
                failures += 1
                pause = min(2.0 ** (failures - 1), _RETRY_LAST)
                self._report(self.state.state if self.state.state == "running" else "pending", False, str(error))
            self._publish()
            stopping.wait(pause)

    def step(self) -> None:
        """One look at the pod and what follows from it."""
        sandbox = self._sandbox()
        self.state.sandbox_id = sandbox.id
        containers = self._latest(sandbox.id)
        self.state.restarts = {name: container.metadata.attempt for name, container in containers.items()}
        if over := self._past_deadline(sandbox):
            self._report(*over)
            return
        waiting = self._initialise(containers)
        if not waiting:
            waiting = self._keep_running(containers)
        state_now, ready, reason = waiting or ("running", True, "")
        self._report(state_now, ready, reason)
        self._rotate_logs(containers)

    # The sandbox

    def _sandbox(self):
        """The pod's running sandbox: adopted, or made anew when there is none of this manifest."""
        mine = None
        for sandbox in self.cri.sandboxes(managed_labels(self.pod.name)):
            fits = sandbox.annotations.get(HASH_ANNOTATION) == self.pod.hash
            if mine is None and fits and sandbox_ready(sandbox):
                mine = sandbox
                continue
            if fits:  # it died: its successors' attempts count on
                for container in self.cri.containers(sandbox.id):
                    name = container.labels[CONTAINER_LABEL]
                    self._attempts[name] = max(self._attempts.get(name, 0), container.metadata.attempt + 1)
            log.info("removing sandbox %s: %s", sandbox.id[:12], "it is down" if fits else "the manifest changed")
            self._report("pending", False, "removing the former sandbox")
            self._publish()
            teardown.remove_sandbox(self.cri, sandbox)
            if not fits:
                volumes.remove(self.pod.name)  # another pod, which begins with empty volumes
        if mine is None:
            mine = self._create_sandbox()
        elif self._surroundings is None:
            log.info("adopting the running sandbox %s", mine.id[:12])
            self._settle_in(mine.id, self._sandbox_config(mine.metadata.attempt))
        return mine

    def _create_sandbox(self):
        # Images come first: a pod that cannot have its image should not cost a VM meanwhile.
        for container in self.pod.init_containers + self.pod.containers:
            self._image(container)
        self._report("pending", False, "starting the sandbox")
        self._publish()
        attempt = int(time.time())  # only has to differ from the former ones'
        Path(log_directory(self.pod)).mkdir(parents=True, exist_ok=True)
        handler = self.pod.spec.get("runtimeClassName") or ""
        for problem in handler_problems(self.pod.spec, handler or self.settings.default_handler):
            raise PodConfigError(str(problem))
        config = self._sandbox_config(attempt)
        answer = self.cri.call("RunPodSandbox", _START_SECONDS, config=config, runtime_handler=handler)
        log.info("sandbox %s started", answer.pod_sandbox_id[:12])
        self._settle_in(answer.pod_sandbox_id, config)
        return self.cri.call("PodSandboxStatus", pod_sandbox_id=answer.pod_sandbox_id).status

    def _sandbox_config(self, attempt: int) -> dict[str, Any]:
        return sandbox_config(self.pod, attempt, _resolv_conf(), self.settings.cgroup_parent(self.pod.name))

    def _settle_in(self, sandbox_id: str, config: dict[str, Any]) -> None:
        """Work out all that containers of this sandbox, which was made with `config`, need."""
        host_address = _host_address()
        address = host_address if self.pod.host_network else self.cri.address(sandbox_id)
        self.state.ip = address
        self._config = config
        self._surroundings = Surroundings(
            address=address,
            host_address=host_address,
            node_name=socket.gethostname(),
            hosts_file=None if self.pod.host_network else volumes.write_hosts(self.pod, address),
            volume_paths=volumes.prepare(self.pod),
        )

    # Its containers

    def _latest(self, sandbox_id: str) -> dict[str, Any]:
        """The newest container of each name."""
        latest: dict[str, Any] = {}
        for container in self.cri.containers(sandbox_id):
            latest.setdefault(container.labels.get(CONTAINER_LABEL, ""), container)
        return latest

    def _past_deadline(self, sandbox) -> tuple[str, bool, str] | None:
        """Stop what runs once activeDeadlineSeconds are over; what the pod is then, or None."""
        seconds = self.pod.spec.get("activeDeadlineSeconds")
        if seconds is None or time.time() - sandbox.created_at / 1e9 < seconds:
            return None
        teardown.stop_containers(self.cri, sandbox.id, self.pod.grace_seconds)
        return "failed", False, f"DeadlineExceeded: activeDeadlineSeconds, {seconds}, are over"

    def _initialise(self, containers: dict[str, Any]) -> tuple[str, bool, str] | None:
        """Run the init containers, one after the other; None when all are done, else what the pod waits for."""
        if any(container["name"] in containers for container in self.pod.containers):
            return None
        for definition in self.pod.init_containers:
            name = definition["name"]
            container = containers.get(name)
            if container is None:
                self._start(definition, None)
                return "pending", False, f"init container {name} is running"
            if state_name(container) == "running":
                return "pending", False, f"init container {name} is running"
            status = self._status(container.id)
            if state_name(status) == "exited" and status.exit_code == 0:
                continue
            if state_name(status) == "exited" and self.pod.restart_policy == "Never":
                return "failed", False, f"init container {name} {_ending(status)}"
            return self._restart(definition, status)
        return None

    def _keep_running(self, containers: dict[str, Any]) -> tuple[str, bool, str] | None:
        """Start what is missing, restart what ended, probe what runs; None when all is well."""
        verdicts: list[tuple[str, bool, str]] = []
        endings = []
        for definition in self.pod.containers:
            name = definition["name"]
            container = containers.get(name)
            if container is None:
                self._start(definition, None)
                verdicts.append(("pending", False, f"container {name} has just been started"))
            elif state_name(container) == "running":
                if unready := self._probe(definition, container):
                    verdicts.append(("running", False, unready))
            else:
                status = self._status(container.id)
                policy = self.pod.restart_policy
                over = state_name(status) == "exited" and (
                    policy == "Never" or (policy == "OnFailure" and status.exit_code == 0)
                )
                if over:
                    endings.append((name, status))
                else:
                    verdicts.append(self._restart(definition, status))
        if verdicts:
            return verdicts[0]
        if len(endings) == len(self.pod.containers):
            failed = [f"container {name} {_ending(status)}" for name, status in endings if status.exit_code]
            return ("failed", False, "; ".join(failed)) if failed else ("succeeded", False, "")
        return None

    def _restart(self, definition: dict[str, Any], status) -> tuple[str, bool, str]:
        """Start a container anew once its back-off is over."""
        name = definition["name"]
        if state_name(status) == "created":  # created and never started: the engine or the runner was interrupted
            self._start(definition, status)
            return "pending", False, f"container {name} has just been started"
        ended = status.finished_at / 1e9 or time.time()
        if status.started_at and (status.finished_at - status.started_at) / 1e9 >= _BACKOFF_FORGET:
            self._crashes.pop(name, None)
        crashes = self._crashes.get(name, min(status.metadata.attempt, 5))
        delay = 0 if crashes == 0 else min(_BACKOFF_FIRST * 2 ** (crashes - 1), _BACKOFF_LAST)
        left = ended + delay - time.time()
        if left > 0:
            reason = f"CrashLoopBackOff: container {name} {_ending(status)}; next start after {delay} s"
            return "running", False, reason
        log.info("container %s %s; starting it again", name, _ending(status))
        self._crashes[name] = crashes + 1
        self._start(definition, status)
        return "running", False, f"container {name} {_ending(status)} and has been started again"

    def _start(self, definition: dict[str, Any], former) -> None:
        name = definition["name"]
        image = self._image(definition)
        user = image.uid.value if image.HasField("uid") else image.username or None
        attempt = former.metadata.attempt + 1 if former is not None else self._attempts.get(name, 0)
        config = container_config(self.pod, definition, attempt, image.id, user, self._surroundings)
        (log_directory(self.pod) / name).mkdir(parents=True, exist_ok=True)
        created = self.cri.call(
            "CreateContainer",
            _START_SECONDS,
            pod_sandbox_id=self.state.sandbox_id,
            config=config,
            sandbox_config=self._config,
        )
        self.cri.call("StartContainer", _START_SECONDS, container_id=created.container_id)
        log.info("container %s started, attempt %d", name, attempt)
        self._after_start(definition, created.container_id)
        if former is not None:
            self.cri.call("RemoveContainer", container_id=former.id)

    def _after_start(self, definition: dict[str, Any], container_id: str) -> None:
        """Run the container's postStart hook; where it fails the container is stopped, as in Kubernetes."""
        hook = (definition.get("lifecycle") or {}).get("postStart")
        if not hook:
            return
        if wrong := hooks.after_start(hooks.resolved(hook, definition, self.state.ip), self.cri, container_id):
            log.warning("container %s: postStart: %s; stopping it", definition["name"], wrong)
            container = next(c for c in self.cri.containers(self.state.sandbox_id) if c.id == container_id)
            teardown.end_container(self.cri, container, self.pod.grace_seconds)

    def _image(self, definition: dict[str, Any]):
        """The container's image as the engine has it, pulled first where the policy says so. Raises CriError."""
        reference = definition["image"]
        tag = reference.rpartition("/")[2]
        latest = "@" not in tag and (":" not in tag or tag.endswith(":latest"))
        policy = definition.get("imagePullPolicy") or ("Always" if latest else "IfNotPresent")
        image = self.cri.call("ImageStatus", image={"image": reference})
        if policy == "Always" or (policy == "IfNotPresent" and not image.HasField("image")):
            self._report("pending", False, f"pulling image {reference}")
            self._publish()
            try:
                pull.pull(self.cri, reference, self.pod.spec.get("imagePullSecrets") or [], _PULL_SECONDS)
            except CriError as error:
                if not (latest and definition.get("imagePullPolicy") is None and image.HasField("image")):
                    raise
                # Kubernetes' implied Always must not take down a pod whose image is here, on a host without network.
                log.warning("%s; using the image that is here", error)
            image = self.cri.call("ImageStatus", image={"image": reference})
        if not image.HasField("image"):
            raise PodConfigError(
                f"container {definition['name']}: image {reference} is not on this host and imagePullPolicy is "
                f"{policy}; import it with engine_images, or change the policy"
            )
        return image.image

    def _status(self, container_id: str):
        return self.cri.call("ContainerStatus", container_id=container_id).status

    def _probe(self, definition: dict[str, Any], container) -> str:
        """Run the probes of a running container that are due; why it is not ready, or an empty string."""
        now = self.clock()
        unready = ""
        for kind, healthy_until_proven in (("startupProbe", False), ("livenessProbe", True), ("readinessProbe", False)):
            if definition.get(kind) is None:
                continue
            probe = self._probes.setdefault(
                (container.id, kind),
                probes.Probe(probes.with_port_numbers(definition[kind], definition), now, healthy_until_proven),
            )
            if kind == "startupProbe" and probe.success:
                continue  # for good
            probe.step(now, lambda d, timeout: probes.look(d, timeout, self.cri, container.id, self.state.ip))
            if probe.success:
                continue
            unready = f"container {definition['name']}: {kind}: {probe.message}"
            if kind != "readinessProbe" and probe.failed:
                log.warning("%s; stopping it", unready)
                grace = definition[kind].get("terminationGracePeriodSeconds")
                teardown.end_container(self.cri, container, self.pod.grace_seconds if grace is None else grace)
                del self._probes[container.id, kind]
            if kind != "readinessProbe":
                break  # the other probes wait for the startup probe, and for the next container
        return unready

    def _rotate_logs(self, containers: dict[str, Any]) -> None:
        """Keep one former log file a container, so that a talkative pod does not fill the disk."""
        for name, container in containers.items():
            path = log_directory(self.pod) / name / f"{container.metadata.attempt}.log"
            try:
                too_long = path.stat().st_size > _ROTATE_BYTES
            except FileNotFoundError:
                continue
            if too_long and state_name(container) == "running":
                path.rename(path.with_suffix(".log.1"))
                self.cri.call("ReopenContainerLog", container_id=container.id)
            for old in path.parent.glob("*.log*"):
                if int(old.name.partition(".")[0]) < container.metadata.attempt - 1:
                    old.unlink(missing_ok=True)

    # What others see

    def _report(self, state_now: str, ready: bool, reason: str) -> None:
        self.state.state, self.state.ready, self.state.reason = state_now, ready, reason

    def _announce(self) -> None:
        if not self._announced:
            self._announced = True
            notify("READY=1")

    def _publish(self) -> None:
        """Tell systemd and write the state file, where something changed."""
        if self.state.settled or self.state.state == "failed":
            self._announce()
        seen = repr(self.state)
        if seen == self._last:
            return
        self._last = seen
        state.write(self.state)
        now = self.state
        text = f"{now.state}{', ready' if now.ready else ''}{': ' if now.reason else ''}{now.reason}"
        log.info("%s", text)
        notify(f"STATUS={text[:500]}")


def _ending(status) -> str:
    words = f"exited {status.exit_code}"
    if status.reason and status.reason not in ("Completed", "Error"):
        words += f" ({status.reason})"
    return f"{words}: {status.message}" if status.message else words


def _resolv_conf() -> str:
    """The host's resolver settings that hold outside the host: a stub on 127.0.0.53 is no use to a pod."""
    behind_stub = Path("/run/systemd/resolve/resolv.conf")
    try:
        content = Path("/etc/resolv.conf").read_text()
        return behind_stub.read_text() if "127.0.0.53" in content and behind_stub.exists() else content
    except OSError:
        return ""


def _host_address() -> str:
    """The address by which this host reaches others; nothing is sent to find it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
            return probe.getsockname()[0]
        except OSError:
            return "127.0.0.1"
