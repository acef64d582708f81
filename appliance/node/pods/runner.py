"""The pod runner: brings one pod to what its manifest says, and keeps it there.

Each step looks at what the engine has and does the next thing, so a runner that starts anew adopts what is running.
"""

import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from appliance.node import places

from . import backoff, events, hooks, probes, pull, state, teardown, volumes
from .cri_model import CriError, sandbox_ready, state_name
from .manifest import ManifestError, Pod, handler_problems
from .notify import notify
from .processes import Processes
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
_RELIST_SECONDS = 10  # how often the engine is asked while nothing happens; the end of a process is seen at once
_SOON_SECONDS = 1
_RETRY_LAST, _RETRY_DOUBLINGS = 30, 5
_ENGINE_SECONDS = 2  # until an engine that is away is asked again
_ROTATE_BYTES = 10 << 20
# A pod that is not ready by then still counts as started for systemd, or a host with a bad pod would boot for ever.
_ANNOUNCE_SECONDS = 60
# How many pods of a host are being started at once: more would only share the processors, and miss deadlines.
_AT_ONCE = max(2, os.cpu_count() or 1)
# Containers that ended well in a former sandbox of a pod that restarts on failure only.
DONE_ANNOTATION = "io.casemate.done"
_POST_START = "postStart has not ended"


class Runner:
    """Runs one pod. `clock` is a monotonic clock in seconds."""

    def __init__(self, pod: Pod, cri: "Cri", settings: Settings, clock=time.monotonic):
        self.pod, self.cri, self.settings, self.clock = pod, cri, settings, clock
        self.state = state.PodState(pod.name, pod.namespace, pod.source, pod.hash, pid=os.getpid())
        self.state.events = state.events_of(pod.name)
        self._probes: dict[tuple[str, str], probes.Probe] = {}  # by container id and kind
        self._crashes: dict[str, int] = {}  # restarts in a row, by container, of those whose sandbox went down
        self._done: set[str] = set()  # containers that a former sandbox has brought to their good end
        self._ended: dict[str, float] = {}  # when an ended container was first seen so, by its id
        self._busy: dict[str, _Work] = {}  # what is being done to running containers meanwhile, by id
        self._over = False  # the pod has finished
        self._pause = 0.0
        self._processes = Processes(cri)
        self._surroundings: Surroundings | None = None
        self._config: dict[str, Any] = {}
        self._last = self._said = ""
        self._announced = False

    def run(self) -> NoReturn:
        """Keep the pod as declared, for ever; the pod goes on without its runner, however that ends."""
        failures = 0
        late = threading.Timer(_ANNOUNCE_SECONDS, self._announce)
        late.daemon = True
        late.start()
        self._publish()
        while True:
            try:
                self.step()
                failures = 0
            except (CriError, ManifestError, PodConfigError, volumes.VolumeError, OSError) as error:
                self._pause = min(2.0 ** min(failures, _RETRY_DOUBLINGS), _RETRY_LAST)
                failures += 1
                if isinstance(error, CriError) and error.code == "UNAVAILABLE":
                    self._pause = min(self._pause, _ENGINE_SECONDS)
                self._event(events.WARNING, _reason(error), str(error))
                self._report(self.state.state if self.state.state == "running" else "pending", False, str(error))
            self._publish()
            self._processes.wait(self._pause)

    def step(self) -> None:
        """One look at the pod and what follows from it; `_pause` is then how long the next look may wait."""
        self._pause = _RELIST_SECONDS
        if self._over:
            return
        up, down = self._sandboxes()
        if up is None:
            if down is not None and self._is_over_or_backing_off(down):
                return
            # Images come first: a pod that cannot have its image should not cost a VM meanwhile.
            for container in self.pod.init_containers + self.pod.containers:
                self._image(container)
            self._report("pending", False, "waiting for other pods to start")
            self._publish()
            state.DIRECTORY.mkdir(parents=True, exist_ok=True)
            with places.place(state.DIRECTORY, "starting", _AT_ONCE):
                if down is not None:
                    teardown.remove_sandbox(self.cri, down)
                up = self._create_sandbox()
                self._keep(up)
        else:
            if self.state.sandbox_id != up.id:
                self._event(events.NORMAL, "Adopted", f"found the pod running in sandbox {up.id[:12]}")
                self._settle_in(up, self._sandbox_config(up.metadata.attempt))
            self._keep(up)

    def _keep(self, sandbox) -> None:
        """See to the containers of a running sandbox."""
        containers = self._latest(sandbox.id)
        self.state.restarts = {name: container.metadata.attempt for name, container in containers.items()}
        waiting = self._past_deadline(sandbox)
        if waiting:
            teardown.stop_containers(self.cri, sandbox.id, self.pod.grace_seconds)
        waiting = waiting or self._initialise(containers) or self._keep_running(containers)
        self._report(*(waiting or ("running", True, "")))
        running = {container.id for container in containers.values() if state_name(container) == "running"}
        self._probes = {key: probe for key, probe in self._probes.items() if key[0] in running}
        self._busy = {key: work for key, work in self._busy.items() if key in running or work.is_alive()}
        if not self._processes.watch(sandbox.id, running):
            self._pause = min(self._pause, _SOON_SECONDS)
        self._rotate_logs(containers)
        if self.state.state in ("succeeded", "failed"):
            self._finish(sandbox.id)

    def _finish(self, sandbox_id: str) -> None:
        """Give back what a finished pod no longer needs; its containers' records and logs stay."""
        self.cri.call("StopPodSandbox", _START_SECONDS, pod_sandbox_id=sandbox_id)
        self._over = True
        self.state.ip = ""
        kind = events.NORMAL if self.state.state == "succeeded" else events.WARNING
        self._event(kind, self.state.state.capitalize(), self.state.reason or "all containers ended well")

    # The sandbox

    def _sandboxes(self) -> tuple[Any, Any]:
        """The pod's running sandbox and, where there is none, the last one that went down; others are removed."""
        found = self.cri.sandboxes(managed_labels(self.pod.name))
        fitting = [sandbox for sandbox in found if sandbox.annotations.get(HASH_ANNOTATION) == self.pod.hash]
        kept = next((one for one in fitting if sandbox_ready(one)), fitting[0] if fitting else None)
        for sandbox in found:
            if sandbox is kept:
                continue
            fits = sandbox in fitting
            words = "it is down" if fits else "the manifest changed"
            self._event(events.NORMAL, "Killing", f"removing sandbox {sandbox.id[:12]}: {words}")
            self._report("pending", False, "removing the former sandbox")
            self._publish()
            # The logs go with the manifest that they are of: the next pod's containers count from 0 again.
            teardown.remove_sandbox(self.cri, sandbox, with_logs=not fits)
            if not fits:
                volumes.remove(self.pod.name)  # another pod, which begins with empty volumes
        if kept is None or sandbox_ready(kept):
            return kept, None
        return None, kept

    def _is_over_or_backing_off(self, down) -> bool:
        """Whether a pod whose sandbox went down gets no other one, or none yet."""
        if any(state_name(container) == "running" for container in self.cri.containers(down.id)):
            teardown.stop_sandbox(self.cri, down)  # containers without their sandbox
        containers = self._latest(down.id)
        self.state.restarts = {name: container.metadata.attempt for name, container in containers.items()}
        statuses = {name: self._status(container.id) for name, container in containers.items()}
        self._done = _done(down) | {name for name, one in statuses.items() if self._ended_for_good(one, "OnFailure")}
        if verdict := self._outcome(statuses) or self._past_deadline(down):
            self._report(*verdict)
            self._over = True
            return True
        again = [
            one for one in statuses.values() if state_name(one) == "exited" and one.metadata.name not in self._done
        ]
        if waiting := [words for one in again if (words := self._backing_off(one))]:
            self._report(*waiting[0])
            return True
        self._event(events.WARNING, "SandboxChanged", f"sandbox {down.id[:12]} went down; making another")
        self._crashes = {one.metadata.name: backoff.in_a_row(one) + 1 for one in again}
        return False

    def _past_deadline(self, sandbox) -> tuple[str, bool, str] | None:
        """What a pod is once activeDeadlineSeconds are over; None before."""
        seconds = self.pod.spec.get("activeDeadlineSeconds")
        if seconds is None:
            return None
        left = sandbox.created_at / 1e9 + seconds - time.time()
        self._pause = min(self._pause, max(left, 0))
        return ("failed", False, f"DeadlineExceeded: activeDeadlineSeconds, {seconds}, are over") if left <= 0 else None

    def _outcome(self, statuses: dict[str, Any]) -> tuple[str, bool, str] | None:
        """What a pod whose sandbox went down has come to; None when it has more to do."""
        policy = self.pod.restart_policy
        names = [definition["name"] for definition in self.pod.containers]
        if policy == "OnFailure" and self._done.issuperset(names):
            return "succeeded", False, ""
        if policy != "Never" or not statuses:
            return None
        for definition in self.pod.init_containers:
            status = statuses.get(definition["name"])
            if status is None or state_name(status) != "exited" or status.exit_code:
                return "failed", False, f"init container {definition['name']} {_ending(status)}"
        ends = {name: statuses.get(name) for name in names}
        wrong = [f"container {name} {_ending(one)}" for name, one in ends.items() if one is None or one.exit_code]
        return ("failed", False, "; ".join(wrong)) if wrong else ("succeeded", False, "")

    def _create_sandbox(self):
        self._report("pending", False, "starting the sandbox")
        self._publish()
        attempt = int(time.time())  # only has to differ from the former ones'
        for problem in handler_problems(self.pod.spec, self.pod.handler):
            raise PodConfigError(str(problem))
        config = self._sandbox_config(attempt)
        if self._done:
            config["annotations"][DONE_ANNOTATION] = ",".join(sorted(self._done))
        answer = self.cri.call("RunPodSandbox", _START_SECONDS, config=config, runtime_handler=self.pod.handler)
        sandbox = self.cri.call("PodSandboxStatus", pod_sandbox_id=answer.pod_sandbox_id).status
        self._settle_in(sandbox, config)
        return sandbox

    def _sandbox_config(self, attempt: int) -> dict[str, Any]:
        return sandbox_config(self.pod, attempt, _resolv_conf(), self.settings.cgroup_parent(self.pod.name))

    def _settle_in(self, sandbox, config: dict[str, Any]) -> None:
        """Work out all that containers of this sandbox, which was made with `config`, need."""
        host_address = _host_address()
        address = host_address if self.pod.host_network else self.cri.address(sandbox.id)
        self.state.ip = address
        self._config = config
        self._done = _done(sandbox)
        self._surroundings = Surroundings(
            address=address,
            host_address=host_address,
            node_name=socket.gethostname(),
            hosts_file=None if self.pod.host_network else volumes.write_hosts(self.pod, address),
            volume_paths=volumes.prepare(self.pod, in_use=bool(self.cri.containers(sandbox.id))),
        )
        self.state.sandbox_id = sandbox.id

    # Its containers

    def _latest(self, sandbox_id: str) -> dict[str, Any]:
        """The last attempt of each container, by name; former ones are removed."""
        latest: dict[str, Any] = {}
        for container in sorted(self.cri.containers(sandbox_id), key=lambda one: one.metadata.attempt):
            former = latest.get(name := container.labels.get(CONTAINER_LABEL, ""))
            latest[name] = container
            if former is not None:
                teardown.remove_container(self.cri, former.id)
        return latest

    def _initialise(self, containers: dict[str, Any]) -> tuple[str, bool, str] | None:
        """Run the init containers, one after the other; None when all are done, else what the pod waits for."""
        if any(container["name"] in containers for container in self.pod.containers):
            return None
        for definition in self.pod.init_containers:
            name = definition["name"]
            container = containers.get(name)
            if container is None:
                self._start(definition, self._next_attempt(name))
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
        held = False  # a container starts when the postStart hooks of those before it have ended, as in Kubernetes
        for definition in self.pod.containers:
            name = definition["name"]
            container = containers.get(name)
            if container is None and name in self._done:
                endings.append("")
            elif container is None and held:
                verdicts.append(("pending", False, f"container {name} waits for a postStart hook"))
            elif container is None:
                verdicts.append(self._start(definition, self._next_attempt(name)))
                held = held or bool(_post_start(definition))
            elif state_name(container) == "running":
                held = held or self._is_doing(container.id) == _POST_START
                if unready := self._probe(definition, container):
                    verdicts.append(("running", False, unready))
            else:
                status = self._status(container.id)
                if self._ended_for_good(status, self.pod.restart_policy):
                    endings.append(f"container {name} {_ending(status)}" if status.exit_code else "")
                else:
                    verdicts.append(self._restart(definition, status))
        if verdicts:
            return verdicts[0]
        if len(endings) == len(self.pod.containers):
            failed = "; ".join(filter(None, endings))
            return ("failed", False, failed) if failed else ("succeeded", False, "")
        return None

    def _ended_for_good(self, status, policy: str) -> bool:
        """Whether a restart policy lets a container be that ended so; with `Always` none."""
        wanted = self.pod.restart_policy == policy and policy != "Always"
        return wanted and state_name(status) == "exited" and (policy == "Never" or status.exit_code == 0)

    def _restart(self, definition: dict[str, Any], status) -> tuple[str, bool, str]:
        """Start a container anew once its back-off is over."""
        name = definition["name"]
        if state_name(status) == "created":  # created and never started: the runner was interrupted
            return self._started(definition, status.id, status.metadata.attempt)
        if waiting := self._backing_off(status):
            return waiting
        ending = f"container {name} {_ending(status)}"
        log.info("%s; starting it again", ending)
        self._crashes[name] = backoff.in_a_row(status) + 1
        self._start(definition, status.metadata.attempt + 1)
        self._ended.pop(status.id, None)
        return "running", False, f"{ending} and has been started again"

    def _backing_off(self, status) -> tuple[str, bool, str] | None:
        """What to report of an ended container that waits for its next start; None when it may have it."""
        delay = backoff.delay(backoff.in_a_row(status))
        first = status.id not in self._ended
        left = self._ended.setdefault(status.id, self.clock()) + delay - self.clock()
        if status.finished_at:  # by whichever clock it is sooner: a date that is set back prolongs nothing
            left = min(left, status.finished_at / 1e9 + delay - time.time())
        if left <= 0:
            return None
        self._pause = min(self._pause, left)
        ending = f"container {status.metadata.name} {_ending(status)}"
        if first:
            self._event(events.WARNING, "BackOff", f"{ending}; next start {delay} s after its end")
        return "running", False, f"CrashLoopBackOff: {ending}; next start after {delay} s"

    def _start(self, definition: dict[str, Any], attempt: int) -> tuple[str, bool, str]:
        """Create and start an attempt of a container."""
        name = definition["name"]
        image = self._image(definition)
        user = image.uid.value if image.HasField("uid") else image.username or None
        config = container_config(self.pod, definition, attempt, image.id, user, self._surroundings)
        config["annotations"][backoff.ANNOTATION] = str(self._crashes.get(name, 0))
        # Not before there is a sandbox: without one, nothing would tell of the logs when the pod is removed.
        (log_directory(self.pod) / name).mkdir(parents=True, exist_ok=True)
        created = self.cri.call(
            "CreateContainer",
            _START_SECONDS,
            pod_sandbox_id=self.state.sandbox_id,
            config=config,
            sandbox_config=self._config,
        )
        self._crashes.pop(name, None)
        return self._started(definition, created.container_id, attempt)

    def _started(self, definition: dict[str, Any], container_id: str, attempt: int) -> tuple[str, bool, str]:
        name = definition["name"]
        self._pause = 0  # to see at once that it runs
        self.cri.call("StartContainer", _START_SECONDS, container_id=container_id)
        self._event(events.NORMAL, "Started", f"container {name}, attempt {attempt}")
        if hook := _post_start(definition):
            hook = hooks.resolved(hook, definition, self.state.ip)

            def run_hook() -> None:
                if wrong := hooks.after_start(hook, self.cri, container_id):
                    self._event(events.WARNING, "FailedPostStartHook", f"container {name}: {wrong}; stopping it")
                    self._end(container_id, self.pod.grace_seconds)

            self._do(container_id, _POST_START, run_hook)
        return "pending", False, f"container {name} has just been started"

    def _end(self, container_id: str, grace_seconds: int) -> None:
        for container in self.cri.containers(self.state.sandbox_id):
            if container.id == container_id:
                teardown.end_container(self.cri, container, grace_seconds)

    def _do(self, container_id: str, words: str, what: Callable[[], None]) -> None:
        """Do something that takes its time to a container, while the others are looked after."""

        def do() -> None:
            try:
                what()
            except CriError as error:  # what stays wrong with the container is seen, and tried, again
                log.warning("%s", error)

        self._busy[container_id] = _Work(words, do)
        self._busy[container_id].start()

    def _is_doing(self, container_id: str) -> str:
        """What is being done to a container just now, in words; an empty string for nothing."""
        work = self._busy.get(container_id)
        return work.words if work and work.is_alive() else ""

    def _next_attempt(self, name: str) -> int:
        """The number of a container's first attempt in a sandbox: former sandboxes' are known by their logs."""
        logs = (log_directory(self.pod) / name).glob("*.log")
        return max((int(path.stem) for path in logs if path.stem.isdigit()), default=-1) + 1

    def _image(self, definition: dict[str, Any]):
        """The container's image as the engine has it, pulled first where the policy says so. Raises CriError."""
        reference = definition["image"]
        tag = reference.rpartition("/")[2]
        latest = "@" not in tag and (":" not in tag or tag.endswith(":latest"))
        policy = definition.get("imagePullPolicy") or ("Always" if latest else "IfNotPresent")
        image = self.cri.call("ImageStatus", image={"image": reference})
        if policy == "Always" or (policy == "IfNotPresent" and not image.HasField("image")):
            self._event(events.NORMAL, "Pulling", f"image {reference}")
            self._report("pending", False, f"pulling image {reference}")
            self._publish()
            try:
                pull.pull(self.cri, reference, self.pod.spec.get("imagePullSecrets") or [], _PULL_SECONDS)
            except CriError as error:
                if not (latest and definition.get("imagePullPolicy") is None and image.HasField("image")):
                    raise
                # Kubernetes' implied Always must not take down a pod whose image is here, on a host without network.
                self._event(events.WARNING, "Failed", f"{error}; using the image that is here")
            image = self.cri.call("ImageStatus", image={"image": reference})
        if not image.HasField("image"):
            raise PodConfigError(
                f"container {definition['name']}: image {reference} is not on this host and imagePullPolicy is "
                f"{policy}; import it with engine_images, or change the policy"
            )
        return image.image

    def _status(self, container_id: str):
        status = self.cri.call("ContainerStatus", container_id=container_id).status
        if state_name(status) == "exited":
            self.state.exit_codes[status.metadata.name] = status.exit_code
        return status

    def _probe(self, definition: dict[str, Any], container) -> str:
        """Run the probes of a running container that are due; why it is not ready, or an empty string."""
        name = definition["name"]
        if words := self._is_doing(container.id):
            self._pause = min(self._pause, _SOON_SECONDS)
            return f"container {name}: {words}"
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
            due = probe.due <= now
            probe.step(now, lambda d, timeout: probes.look(d, timeout, self.cri, container.id, self.state.ip))
            if due and probe.message:
                self._event(events.WARNING, "Unhealthy", f"container {name}: {kind}: {probe.message}")
            self._pause = min(self._pause, probe.due - now)
            if probe.success:
                continue
            unready = f"container {name}: {kind}: {probe.message}"
            if kind != "readinessProbe" and probe.failed:
                grace = definition[kind].get("terminationGracePeriodSeconds")
                grace = self.pod.grace_seconds if grace is None else grace
                self._event(events.WARNING, "Killing", f"{unready}; stopping it")
                self._do(container.id, f"{kind} failed; it is being stopped", partial(self._end, container.id, grace))
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

    def _event(self, kind: str, reason: str, message: str) -> None:
        if events.add(self.state.events, kind, reason, message):
            log.log(logging.WARNING if kind == events.WARNING else logging.INFO, "%s: %s", reason, message)

    def _publish(self) -> None:
        """Tell systemd and write the state file, where something changed."""
        if self.state.settled or self.state.state == "failed":
            self._announce()
        seen = repr(self.state)
        if seen == self._last and state.is_there(self.pod.name):
            return
        now = self.state
        text = f"{now.state}{', ready' if now.ready else ''}{': ' if now.reason else ''}{now.reason}"
        notify(f"STATUS={text[:500]}")
        try:
            state.write(self.state)
        except OSError as error:  # a full disk must not end the runner
            text += f" (its state could not be written: {error})"
            seen = ""
        if text != self._said:
            log.info("%s", text)
        self._last, self._said = seen, text


class _Work(threading.Thread):
    """Something that is being done to a container, and in words what."""

    def __init__(self, words: str, do: Callable[[], None]):
        super().__init__(target=do, daemon=True)
        self.words = words


def _post_start(definition: dict[str, Any]) -> dict[str, Any] | None:
    return (definition.get("lifecycle") or {}).get("postStart")


def _ending(status) -> str:
    if status is None or state_name(status) != "exited":
        return "was not started before its sandbox went down"
    words = f"exited {status.exit_code}"
    if status.reason and status.reason not in ("Completed", "Error"):
        words += f" ({status.reason})"
    return f"{words}: {status.message}" if status.message else words


def _done(sandbox) -> set[str]:
    return set(filter(None, sandbox.annotations.get(DONE_ANNOTATION, "").split(",")))


def _reason(error: Exception) -> str:
    """The event's word for what went wrong in a step."""
    if isinstance(error, CriError):
        return {"RunPodSandbox": "FailedCreatePodSandBox", "PullImage": "Failed", "CreateContainer": "Failed",
                "StartContainer": "Failed"}.get(error.method, "FailedSync")  # fmt: skip
    return "FailedMount" if isinstance(error, volumes.VolumeError) else "FailedSync"


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
