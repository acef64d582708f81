"""Pods of a benchmark: made through CRI beside the node's own, marked, and gone with it, however it ends."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from appliance.node.images import oci, recipes, store
from appliance.node.pods import cgroups, settings
from appliance.node.pods.cri import Cri, CriError

LABEL = "casemate.io/bench"
COLD = {"io.casemate.microvm/boot": "cold"}
WORK = Path("/var/lib/casemate")  # beside the volumes of pods, so that io measures their file system
LEFT = "bench-"
ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
"""Signals that end a benchmark, after the call that it is in."""


class BenchError(Exception):
    """A benchmark cannot go on; the text names cause and cure."""


def say(text: str) -> None:
    """Tell what is being done. Raises BrokenPipeError when whoever asked for the benchmark has gone."""
    print(text, file=sys.stderr, flush=True)


class _WholeCalls(Cri):
    """A client that no signal interrupts amid a call: what the engine had begun to make would stay, unlisted."""

    def call(self, method: str, deadline: float = 30, /, **fields):
        before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
        try:
            return super().call(method, deadline, **fields)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Node:
    """The engine, a directory for logs and volumes, and the pods that are up."""

    def __init__(self, cri: Cri, directory: Path):
        self.cri, self.directory = cri, directory
        self.pods: list[Pod] = []

    def handlers(self) -> list[str]:
        """Return the runtime handlers that the engine knows, as its configuration names them."""
        config = json.loads(self.cri.call("Status", verbose=True).info["config"])
        return sorted(config["containerd"]["runtimes"])

    def pod(self, handler: str, cold: bool = False) -> Pod:
        """Start a pod's sandbox. Raises CriError."""
        pod = Pod(self, handler, cold)
        self.pods.append(pod)
        pod.run()
        return pod


class Pod:
    """One pod; `phases` holds how long each of its steps took, in seconds."""

    def __init__(self, node: Node, handler: str, cold: bool):
        self.node, self.handler = node, handler
        self.name = f"bench-{uuid.uuid4().hex[:8]}"
        self.phases: dict[str, float] = {}
        self.id = ""
        self.containers: list[str] = []
        self.logs = node.directory / self.name
        self.config = {
            "metadata": {"name": self.name, "uid": uuid.uuid4().hex, "namespace": "casemate-bench", "attempt": 0},
            "hostname": self.name,
            "log_directory": str(self.logs),
            "labels": {LABEL: "1"},
            "annotations": COLD if cold else {},
            "linux": {
                "security_context": {"namespace_options": {"network": 0, "pid": 1, "ipc": 0}},
                # where systemd makes control groups, the engine's default is none that runc takes
                "cgroup_parent": settings.load().cgroup_parent(self.name),
            },
        }

    def run(self) -> None:
        """Start the sandbox. Raises CriError."""
        self.logs.mkdir()
        with self._timed("sandbox"):
            answer = self.node.cri.call("RunPodSandbox", 300, config=self.config, runtime_handler=self.handler)
        self.id = answer.pod_sandbox_id

    def start(self, *command: str, mounts: dict[str, Path] | None = None) -> str:
        """Start a container; mounts: path in the container -> path on the host. Return its id. Raises CriError."""
        name = f"c{len(self.containers)}"
        config = {
            "metadata": {"name": name, "attempt": 0},
            "image": {"image": recipes.DEMO},
            "command": list(command),
            "log_path": name,
            "mounts": [
                {"container_path": inside, "host_path": str(host), "readonly": inside != "/bench"}
                for inside, host in (mounts or {}).items()
            ],
            "linux": {"security_context": {"namespace_options": {"pid": 1}, "run_as_user": {"value": 0}}},
        }
        with self._timed("create"):
            identifier = self.node.cri.call(
                "CreateContainer", 60, pod_sandbox_id=self.id, config=config, sandbox_config=self.config
            ).container_id
        self.containers.append(identifier)
        with self._timed("start"):
            self.node.cri.call("StartContainer", 180, container_id=identifier)
        return identifier

    def output(self, until: Callable[[str], bool] = bool, timeout_s: float = 300) -> str:
        """Wait until what the last container wrote to stdout satisfies `until`; return it.

        Raises BenchError when the container ends first, or the time does.
        """
        log, deadline = self.logs / f"c{len(self.containers) - 1}", time.monotonic() + timeout_s
        look_at_container = time.monotonic() + 1
        with self._timed("output"):
            while time.monotonic() < deadline:
                text = log.read_text() if log.exists() else ""
                lines = [line.split(" ", 3) for line in text.splitlines()]
                out = "".join(line[3] + "\n" for line in lines if len(line) == 4 and line[1] == "stdout")
                if until(out):
                    return out
                if time.monotonic() > look_at_container:
                    look_at_container = time.monotonic() + 1
                    status = self.node.cri.call("ContainerStatus", container_id=self.containers[-1]).status
                    if status.state == 2 and status.exit_code:
                        raise BenchError(
                            f"the container in a {self.handler} pod ended {status.exit_code}: {text[-300:]}"
                        )
                time.sleep(0.002)
        raise BenchError(
            f"the container in a {self.handler} pod wrote nothing useful in {timeout_s:.0f} s: {text[-300:]}"
        )

    def address(self) -> str:
        return self.node.cri.address(self.id)

    def remove(self) -> None:
        """Stop and remove the pod and its logs. Raises CriError."""
        with self._timed("remove"):
            if self.id:
                _remove(self.node.cri, self.id, self.name)
        self.node.pods.remove(self)

    @contextlib.contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        self.phases[phase] = time.perf_counter() - begin


@contextlib.contextmanager
def node() -> Iterator[Node]:
    """Give the node's engine to a benchmark, and take away what an earlier one left and what this one makes.

    Raises BenchError when the engine or the image's parts are not there.
    """
    cri = _WholeCalls()
    try:
        _clean(cri)
        new = _import_image()
    except (CriError, store.StoreError, OSError) as error:
        raise BenchError(f"{error}; this host must be deployed first (appliance deploy)") from None
    directory = Path(tempfile.mkdtemp(prefix=LEFT, dir=WORK))
    try:
        yield Node(cri, directory)
    finally:
        _clean(cri)
        if new:
            store.remove(recipes.DEMO)


def _clean(cri: Cri) -> None:
    for sandbox in cri.sandboxes({LABEL: "1"}):
        _remove(cri, sandbox.id, sandbox.metadata.name)
    for directory in WORK.glob(f"{LEFT}*"):
        shutil.rmtree(directory, ignore_errors=True)


def _remove(cri: Cri, sandbox: str, name: str) -> None:
    for container in cri.containers(sandbox):
        with contextlib.suppress(CriError):  # it may have ended by itself; stopping the pod ends it anyway
            cri.call("StopContainer", 60, container_id=container.id, timeout=0)
    cri.call("StopPodSandbox", 120, pod_sandbox_id=sandbox)
    cri.call("RemovePodSandbox", 120, pod_sandbox_id=sandbox)
    cgroups.remove(name)


def _import_image() -> bool:
    """Import the demo image (busybox) where it is missing; tell whether it was."""
    if recipes.DEMO in (known := store.present()):
        return False
    with tempfile.NamedTemporaryFile(prefix=LEFT, suffix=".tar", dir=WORK) as archive:
        archive.write(oci.build(recipes.demo(), recipes.architecture()))
        archive.flush()
        store.import_archive(Path(archive.name), known)
    return True
