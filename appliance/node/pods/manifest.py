"""Kubernetes v1 Pod manifests: read, check against what the pod runner can do, and identify.

What is not listed here is refused by name: a manifest that runs does all that it says.
"""

import hashlib
import json
import uuid
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from . import schema as s

MANIFEST_DIRECTORY = Path("/etc/casemate/pods")
SUFFIXES = (".yaml", ".yml", ".json")

_LABEL = s.text(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", "a name of lower-case letters, digits and dashes")
_SUBDOMAIN = s.text(
    r"(?=.{1,253}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*",
    "a name of lower-case letters, digits, dashes and dots",
)
_ANY = s.text()
_SECONDS = s.integer(0, 86400)
_PORT = s.integer(1, 65535)
_ID = s.integer(0, 2**31 - 1)
_ABSOLUTE = s.text(r"/.*", "an absolute path")
_RELATIVE = s.text(r"(?!/)(?!(.*/)?\.\.(/|$)).+", "a relative path without ..")
_EMPTY = s.record({})

_PROBE_PORT_ACTIONS = {
    "exec": s.record({"command": s.listing(_ANY, 1)}, ("command",)),
    "httpGet": s.record(
        {
            "path": _ANY,
            "port": _PORT,
            "host": s.address,
            "scheme": s.one_of("HTTP", "HTTPS"),
            "httpHeaders": s.listing(s.record({"name": _ANY, "value": _ANY}, ("name", "value"))),
        },
        ("port",),
    ),
    "tcpSocket": s.record({"port": _PORT, "host": s.address}, ("port",)),
}
_PROBE = s.record(
    {
        **_PROBE_PORT_ACTIONS,
        "initialDelaySeconds": _SECONDS,
        "periodSeconds": s.integer(1, 86400),
        "timeoutSeconds": s.integer(1, 3600),
        "successThreshold": s.integer(1, 100),
        "failureThreshold": s.integer(1, 1000),
    },
    exactly_one=tuple(_PROBE_PORT_ACTIONS),
)
_SECCOMP = s.record({"type": s.one_of("RuntimeDefault", "Unconfined")}, ("type",))
_CONFIG_KEY = s.record({"name": _SUBDOMAIN, "key": _ANY, "optional": s.boolean}, ("name", "key"))
_FIELD_PATHS = ("metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "status.podIP", "status.hostIP")
_ENV = s.record(
    {
        "name": s.text(r"[^=\0]+", "a variable's name"),
        "value": _ANY,
        "valueFrom": s.record(
            {
                "fieldRef": s.record(
                    {"fieldPath": s.one_of(*_FIELD_PATHS), "apiVersion": s.one_of("v1")}, ("fieldPath",)
                ),
                "configMapKeyRef": _CONFIG_KEY,
            },
            exactly_one=("fieldRef", "configMapKeyRef"),
        ),
    },
    ("name",),
)
_RESOURCES = s.record(
    {
        "limits": s.record({"cpu": s.quantity, "memory": s.quantity}),
        "requests": s.record({"cpu": s.quantity, "memory": s.quantity}),
    }
)
_CONTAINER_FIELDS: dict[str, s.Check] = {
    "name": _LABEL,
    "image": s.text(r"\S+", "an image reference"),
    "imagePullPolicy": s.one_of("IfNotPresent", "Always", "Never"),
    "command": s.listing(_ANY),
    "args": s.listing(_ANY),
    "workingDir": _ABSOLUTE,
    "env": s.listing(_ENV),
    "ports": s.listing(
        s.record(
            {
                "name": _ANY,
                "containerPort": _PORT,
                "hostPort": _PORT,
                "hostIP": s.address,
                "protocol": s.one_of("TCP", "UDP"),
            },
            ("containerPort",),
        )
    ),
    "resources": _RESOURCES,
    "volumeMounts": s.listing(
        s.record(
            {"name": _LABEL, "mountPath": _ABSOLUTE, "readOnly": s.boolean, "subPath": _RELATIVE},
            ("name", "mountPath"),
        ),
        unique="mountPath",
    ),
    "securityContext": s.record(
        {
            "privileged": s.boolean,
            "runAsUser": _ID,
            "runAsGroup": _ID,
            "runAsNonRoot": s.boolean,
            "readOnlyRootFilesystem": s.boolean,
            "allowPrivilegeEscalation": s.boolean,
            "capabilities": s.record({"add": s.listing(_ANY), "drop": s.listing(_ANY)}),
            "seccompProfile": _SECCOMP,
        }
    ),
}
_CONTAINER = s.record(
    {**_CONTAINER_FIELDS, "livenessProbe": _PROBE, "readinessProbe": _PROBE}, required=("name", "image")
)
_INIT_CONTAINER = s.record(_CONTAINER_FIELDS, required=("name", "image"))
_HOST_PATH_TYPES = ("", "DirectoryOrCreate", "Directory", "FileOrCreate", "File", "Socket")
_KEY_TO_PATH = s.record({"key": _ANY, "path": _RELATIVE, "mode": s.integer(0, 0o777)}, ("key", "path"))
_VOLUME_KINDS: dict[str, s.Check] = {
    "emptyDir": _EMPTY,
    "hostPath": s.record({"path": _ABSOLUTE, "type": s.one_of(*_HOST_PATH_TYPES)}, ("path",)),
    "configMap": s.record(
        {
            "name": _SUBDOMAIN,
            "items": s.listing(_KEY_TO_PATH),
            "defaultMode": s.integer(0, 0o777),
            "optional": s.boolean,
        },
        ("name",),
    ),
}
_NO_CLOUD = "there is no cluster whose services or accounts a pod could use"
_SPEC = s.record(
    {
        "containers": s.listing(_CONTAINER, 1, unique="name"),
        "initContainers": s.listing(_INIT_CONTAINER, unique="name"),
        "volumes": s.listing(
            s.record({"name": _LABEL, **_VOLUME_KINDS}, ("name",), exactly_one=tuple(_VOLUME_KINDS)), unique="name"
        ),
        "restartPolicy": s.one_of("Always", "OnFailure", "Never"),
        "terminationGracePeriodSeconds": _SECONDS,
        "runtimeClassName": _SUBDOMAIN,
        "hostNetwork": s.boolean,
        "hostname": _LABEL,
        "hostAliases": s.listing(s.record({"ip": s.address, "hostnames": s.listing(_ANY, 1)}, ("ip", "hostnames"))),
        "dnsPolicy": s.one_of("ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"),
        "dnsConfig": s.record(
            {
                "nameservers": s.listing(s.address),
                "searches": s.listing(_ANY),
                "options": s.listing(s.record({"name": _ANY, "value": _ANY}, ("name",))),
            }
        ),
        "securityContext": s.record(
            {
                "runAsUser": _ID,
                "runAsGroup": _ID,
                "runAsNonRoot": s.boolean,
                "supplementalGroups": s.listing(_ID),
                "seccompProfile": _SECCOMP,
                "sysctls": s.listing(s.record({"name": _ANY, "value": _ANY}, ("name", "value")), unique="name"),
            }
        ),
        "enableServiceLinks": s.boolean,
        "automountServiceAccountToken": s.one_of(False, why=_NO_CLOUD),
    },
    ("containers",),
)
_POD = s.record(
    {
        "apiVersion": s.one_of("v1"),
        "kind": s.one_of("Pod"),
        "metadata": s.record(
            {
                "name": _LABEL,
                "namespace": _LABEL,
                "uid": s.text(r"[-a-zA-Z0-9]{1,63}", "a UID"),
                "labels": s.mapping(_ANY),
                "annotations": s.mapping(_ANY),
                "creationTimestamp": s.one_of(None),
            },
            ("name",),
        ),
        "spec": _SPEC,
        "status": _EMPTY,
    },
    ("apiVersion", "kind", "metadata", "spec"),
)


class ManifestError(Exception):
    """A manifest that cannot be run: `source` is its file, `problems` all that is wrong with it, one line each."""

    def __init__(self, source: str | Path, problems: list[str]):
        self.source, self.problems = str(source), problems
        super().__init__("\n".join(f"{source}: {problem}" for problem in problems))


@dataclass(frozen=True)
class Pod:
    """A checked Pod manifest. `manifest` is its document, `source` the file it came from."""

    manifest: dict[str, Any]
    source: str

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
        """16 hex digits that change when the manifest's meaning does; comments and key order do not count."""
        canonical = json.dumps(self.manifest, sort_keys=True, separators=(",", ":"))
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
    def host_network(self) -> bool:
        return bool(self.spec.get("hostNetwork"))


def check(document: Any) -> list[s.Problem]:
    """All problems of one Pod document; an empty list means that it can be run."""
    problems: list[s.Problem] = []
    if isinstance(document, dict) and document.get("kind") not in (None, "Pod"):
        return [s.Problem("kind", f"expected Pod; got {document['kind']!r}")]
    _POD(document, "", problems)
    if not problems:
        _cross_checks(document["spec"], problems)
    return problems


def _cross_checks(spec: dict[str, Any], problems: list[s.Problem]) -> None:
    volumes = {volume["name"] for volume in spec.get("volumes") or []}
    seen_host_ports: set[tuple[str, int]] = set()
    init_names = {container["name"] for container in spec.get("initContainers") or []}
    for group in ("initContainers", "containers"):
        for index, container in enumerate(spec.get(group) or []):
            where = f"spec.{group}[{index}]"
            if group == "containers" and container["name"] in init_names:
                problems.append(s.Problem(f"{where}.name", f"{container['name']!r} is an init container's name too"))
            for number, mount in enumerate(container.get("volumeMounts") or []):
                if mount["name"] not in volumes:
                    problems.append(
                        s.Problem(
                            f"{where}.volumeMounts[{number}].name", f"no volume {mount['name']!r} in spec.volumes"
                        )
                    )
            for number, variable in enumerate(container.get("env") or []):
                if variable.get("value") is not None and variable.get("valueFrom") is not None:
                    problems.append(s.Problem(f"{where}.env[{number}]", "value and valueFrom exclude each other"))
            for number, port in enumerate(container.get("ports") or []):
                key = (port.get("protocol") or "TCP", port.get("hostPort") or 0)
                if key[1] and key in seen_host_ports:
                    problems.append(s.Problem(f"{where}.ports[{number}].hostPort", f"{key[1]} is used more than once"))
                seen_host_ports.add(key)
                if spec.get("hostNetwork") and key[1] not in (0, port["containerPort"]):
                    problems.append(
                        s.Problem(f"{where}.ports[{number}].hostPort", "must equal containerPort with hostNetwork")
                    )
    if spec.get("dnsPolicy") == "None" and not (spec.get("dnsConfig") or {}).get("nameservers"):
        problems.append(s.Problem("spec.dnsConfig.nameservers", "is required with dnsPolicy None"))


def load(path: Path) -> Pod:
    """The pod of one manifest file, YAML or JSON. Raises ManifestError for whatever is wrong with it."""
    try:
        documents = [document for document in yaml.safe_load_all(path.read_text("utf-8")) if document is not None]
    except OSError as error:
        raise ManifestError(path, [f"cannot be read: {error.strerror}"]) from None
    except UnicodeDecodeError as error:
        raise ManifestError(path, [f"is not UTF-8 text: {error.reason} at byte {error.start}"]) from None
    except yaml.YAMLError as error:
        raise ManifestError(path, [f"is not YAML: {' '.join(str(error).split())}"]) from None
    if len(documents) != 1:
        raise ManifestError(path, [f"expected one Pod in a file; found {len(documents)} documents"])
    problems = check(documents[0])
    if problems:
        raise ManifestError(path, [str(problem) for problem in problems])
    return Pod(documents[0], str(path))


def load_directory(directory: Path = MANIFEST_DIRECTORY) -> tuple[dict[str, Pod], list[ManifestError]]:
    """Every pod declared in `directory` by name, and the files that declare none because they are wrong.

    Hidden files are ignored: editors and writers put their temporary files there. Of two files with one name the
    alphabetically first counts.
    """
    pods: dict[str, Pod] = {}
    errors: list[ManifestError] = []
    files = sorted(directory.iterdir()) if directory.is_dir() else []
    for path in files:
        if path.name.startswith(".") or path.suffix not in SUFFIXES or not path.is_file():
            continue
        try:
            pod = load(path)
        except ManifestError as error:
            if path.exists():  # else it went away between listing and reading
                errors.append(error)
            continue
        if pod.name in pods:
            errors.append(
                ManifestError(path, [f"metadata.name: {pod.name!r} is already declared in {pods[pod.name].source}"])
            )
            continue
        pods[pod.name] = pod
    return pods, errors
