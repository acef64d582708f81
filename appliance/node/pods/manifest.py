"""Kubernetes v1 Pod manifests: read, check against what the pod runner can do, and identify.

Single fields are judged by the schema (schema.py, fields.py); here is what only several fields together can tell.
"""

import hashlib
import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from . import documents, objects, settings
from .documents import SUFFIXES, ManifestError, Problem
from .quantity import parse_quantity

MANIFEST_DIRECTORY = Path("/etc/casemate/pods")
MICROVM = "microvm"
_HOST_NAMESPACES = ("hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace")
_NOT_IN_A_GUEST = ("Socket", "CharDevice", "BlockDevice")
_NOT_FOR_INIT = ("livenessProbe", "readinessProbe", "startupProbe", "lifecycle")
_CLUSTER_FIELDS = ("metadata.name", "metadata.namespace", "metadata.uid", "metadata.labels", "metadata.annotations")


@dataclass(frozen=True)
class Pod:
    """A checked Pod manifest.

    `manifest` is its document, `source` the file it came from, `default_handler` the runtime of pods that name none;
    where it is empty, the engine chooses.
    """

    manifest: dict[str, Any]
    source: str
    default_handler: str = ""

    @property
    def spec(self) -> dict[str, Any]:
        return self.manifest["spec"]

    @property
    def name(self) -> str:
        return self.manifest["metadata"]["name"]

    @property
    def namespace(self) -> str:
        return self.manifest["metadata"].get("namespace") or "default"

    @cached_property
    def uid(self) -> str:
        """The manifest's UID, or one that is the same for this name on every run, so that logs stay in one place."""
        own = self.manifest["metadata"].get("uid")
        return own or str(uuid.uuid5(uuid.NAMESPACE_OID, f"casemate/{self.namespace}/{self.name}"))

    @cached_property
    def hash(self) -> str:
        """16 hex digits that change when the meaning of the manifest, its runtime, or an object that it names does.

        Comments and the order of keys in the manifest do not count.
        """
        canonical = json.dumps(self.manifest, sort_keys=True, separators=(",", ":"))
        canonical += self.handler + objects.digest(self.spec)
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    @property
    def containers(self) -> list[dict[str, Any]]:
        return self.spec["containers"]

    @property
    def init_containers(self) -> list[dict[str, Any]]:
        return self.spec.get("initContainers") or []

    @property
    def restart_policy(self) -> str:
        return self.spec.get("restartPolicy") or "Always"

    @property
    def grace_seconds(self) -> int:
        grace = self.spec.get("terminationGracePeriodSeconds")
        return 30 if grace is None else grace

    @property
    def handler(self) -> str:
        """The runtime handler that the engine is asked for."""
        return self.spec.get("runtimeClassName") or self.default_handler

    @property
    def host_network(self) -> bool:
        return bool(self.spec.get("hostNetwork"))


def check(document: Any, default_handler: str = "") -> list[Problem]:
    """All problems of one Pod document; an empty list means that it can be run.

    `default_handler` is the runtime of pods that name none; what it cannot do is not looked for where it is not known.
    """
    if isinstance(document, dict) and document.get("kind") not in (None, "Pod"):
        return [Problem("kind", f"expected Pod; got {document['kind']!r}")]
    from . import schema  # not for every runner to hold

    problems = schema.check(document, "Pod")
    return problems or list(_cross_checks(document["spec"], default_handler))


def handler_problems(spec: dict[str, Any], handler: str) -> Iterator[Problem]:
    """What a pod asks for that its runtime cannot do."""
    if handler != MICROVM:
        return
    for field in _HOST_NAMESPACES:
        if spec.get(field):
            yield Problem(
                f"spec.{field}", "is not for a microVM, which has a kernel of its own; set runtimeClassName: runc"
            )
    for index, volume in enumerate(spec.get("volumes") or []):
        kind = (volume.get("hostPath") or {}).get("type")
        if kind in _NOT_IN_A_GUEST:
            yield Problem(
                f"spec.volumes[{index}].hostPath.type",
                f"a {kind} of the host cannot be used in a microVM; set runtimeClassName: runc",
            )


def _cross_checks(spec: dict[str, Any], default_handler: str) -> Iterator[Problem]:
    yield from handler_problems(spec, spec.get("runtimeClassName") or default_handler)
    if spec.get("hostPID") and spec.get("shareProcessNamespace"):
        yield Problem("spec.shareProcessNamespace", "excludes hostPID")
    if spec.get("dnsPolicy") == "None" and not (spec.get("dnsConfig") or {}).get("nameservers"):
        yield Problem("spec.dnsConfig.nameservers", "is required with dnsPolicy None")
    if (context := spec.get("securityContext") or {}).get("fsGroupChangePolicy") and context.get("fsGroup") is None:
        yield Problem("spec.securityContext.fsGroupChangePolicy", "needs fsGroup as well")
    for index, volume in enumerate(spec.get("volumes") or []):
        yield from _volume(volume, f"spec.volumes[{index}]")
    init_names = {container["name"] for container in spec.get("initContainers") or []}
    host_ports: set[tuple[str, int]] = set()
    for group in ("initContainers", "containers"):
        for index, container in enumerate(spec.get(group) or []):
            where = f"spec.{group}[{index}]"
            if group == "containers" and container["name"] in init_names:
                yield Problem(f"{where}.name", f"{container['name']!r} is an init container's name too")
            if group == "initContainers":
                for field in _NOT_FOR_INIT:
                    if container.get(field) is not None:
                        yield Problem(f"{where}.{field}", "is not for init containers, which run to their end")
            yield from _container(spec, container, where, host_ports)


def _container(
    spec: dict[str, Any], container: dict[str, Any], where: str, host_ports: set[tuple[str, int]]
) -> Iterator[Problem]:
    volumes = {volume["name"] for volume in spec.get("volumes") or []}
    for number, mount in enumerate(container.get("volumeMounts") or []):
        if mount["name"] not in volumes:
            yield Problem(f"{where}.volumeMounts[{number}].name", f"no volume {mount['name']!r} in spec.volumes")
    for number, variable in enumerate(container.get("env") or []):
        if variable.get("value") is not None and variable.get("valueFrom") is not None:
            yield Problem(f"{where}.env[{number}]", "value and valueFrom exclude each other")
    names = set()
    for number, port in enumerate(container.get("ports") or []):
        key = (port.get("protocol") or "TCP", port.get("hostPort") or 0)
        if key[1] and key in host_ports:
            yield Problem(f"{where}.ports[{number}].hostPort", f"{key[1]} is used more than once")
        host_ports.add(key)
        if spec.get("hostNetwork") and key[1] not in (0, port["containerPort"]):
            yield Problem(f"{where}.ports[{number}].hostPort", "must equal containerPort with hostNetwork")
        if port.get("name") in names:
            yield Problem(f"{where}.ports[{number}].name", f"{port['name']!r} is used more than once")
        names |= {port["name"]} if port.get("name") else set()
    for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
        definition = container.get(probe) or {}
        yield from _action(definition, f"{where}.{probe}", names)
        if probe == "readinessProbe" and definition.get("terminationGracePeriodSeconds") is not None:
            yield Problem(f"{where}.{probe}.terminationGracePeriodSeconds", "is not for a probe that ends nothing")
        if probe != "readinessProbe" and definition.get("successThreshold") not in (None, 1):
            yield Problem(f"{where}.{probe}.successThreshold", "expected 1, the only value for this probe")
    for hook in ("postStart", "preStop"):
        yield from _action((container.get("lifecycle") or {}).get(hook) or {}, f"{where}.lifecycle.{hook}", names)
    for kind, limit in ((container.get("resources") or {}).get("limits") or {}).items():
        request = ((container.get("resources") or {}).get("requests") or {}).get(kind)
        if None not in (request, limit) and parse_quantity(request) > parse_quantity(limit):
            yield Problem(f"{where}.resources.requests.{kind}", f"{request} is more than the limit, {limit}")


def _action(definition: dict[str, Any], where: str, port_names: set[str]) -> Iterator[Problem]:
    for action in ("httpGet", "tcpSocket"):
        port = (definition.get(action) or {}).get("port")
        if isinstance(port, str) and port not in port_names:
            yield Problem(f"{where}.{action}.port", f"no port of this container is called {port!r}")


def _volume(volume: dict[str, Any], where: str) -> Iterator[Problem]:
    empty = volume.get("emptyDir") or {}
    if empty.get("sizeLimit") is not None and empty.get("medium") != "Memory":
        yield Problem(
            f"{where}.emptyDir.sizeLimit", "needs medium: Memory; a volume of storage_volumes may have a size on disk"
        )
    paths: set[str] = set()
    sources = [(where, volume)]
    projected = (volume.get("projected") or {}).get("sources") or []
    sources += [(f"{where}.projected.sources[{number}]", source) for number, source in enumerate(projected)]
    for place, source in sources:
        for kind in ("configMap", "secret", "downwardAPI"):
            for number, item in enumerate((source.get(kind) or {}).get("items") or []):
                here = f"{place}.{kind}.items[{number}]"
                if item["path"] in paths:
                    yield Problem(f"{here}.path", f"{item['path']!r} is used more than once")
                paths.add(item["path"])
                path = (item.get("fieldRef") or {}).get("fieldPath") or ""
                if kind == "downwardAPI" and not path.startswith(_CLUSTER_FIELDS):
                    yield Problem(f"{here}.fieldRef.fieldPath", f"expected a field of metadata; got {path!r}")


def load(path: Path) -> Pod:
    """The pod of one manifest file of this host, YAML or JSON. Raises ManifestError for whatever is wrong with it."""
    handler = settings.load().default_handler
    try:
        document, _ = documents.load(path, f"Pod {handler}", lambda found: check(found, handler))
    except FileNotFoundError:
        raise ManifestError(path, ["does not exist"]) from None
    return Pod(document, str(path), handler)


def load_directory(directory: Path = MANIFEST_DIRECTORY) -> tuple[dict[str, Pod], list[ManifestError]]:
    """Every pod declared in `directory` by name, and the files that declare none because they are wrong.

    Hidden files are ignored: editors and writers put their temporary files there. Of two files with one name the
    alphabetically first counts.
    """
    pods: dict[str, Pod] = {}
    errors: list[ManifestError] = []
    files = sorted(directory.iterdir()) if directory.is_dir() else []
    for path in files:
        if path.name.startswith(".") or path.suffix not in SUFFIXES:
            continue
        if not path.is_file():
            if path.is_symlink() or path.exists():  # else it went away between listing and reading
                errors.append(ManifestError(path, ["is not a file, or a link that leads to none"]))
            continue
        try:
            pod = load(path)
        except ManifestError as error:
            if path.exists():
                errors.append(error)
            continue
        if pod.name in pods:
            errors.append(
                ManifestError(path, [f"metadata.name: {pod.name!r} is already declared in {pods[pod.name].source}"])
            )
            continue
        pods[pod.name] = pod
    return pods, errors


def find(argument: str, directory: Path = MANIFEST_DIRECTORY) -> Pod:
    """The pod of a manifest file, or the one of this name that `directory` declares. Raises ManifestError."""
    if "/" in argument or argument.endswith(SUFFIXES):
        return load(Path(argument))
    for path in sorted(directory.iterdir()) if directory.is_dir() else []:
        if path.name.startswith(".") or path.suffix not in SUFFIXES:
            continue
        try:
            # Fifty runners that start at once should not parse fifty manifests each.
            if argument.encode() in path.read_bytes() and (pod := load(path)).name == argument:
                return pod
        except (ManifestError, OSError):
            continue
    pods, errors = load_directory(directory)  # a name may be written so that it does not read as it is
    if argument in pods:
        return pods[argument]
    if errors:
        raise errors[0]
    raise ManifestError(directory, [f"no manifest declares a pod named {argument!r}"])
