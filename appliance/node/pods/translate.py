"""From a Pod manifest to what the engine is asked for: CRI messages as plain dicts (field names of cri.proto)."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import downward, hooks, objects, volumes
from .manifest import ManifestError, Pod
from .quantity import parse_quantity

LOG_ROOT = Path("/var/log/pods")
MANAGED_LABEL = "io.casemate.managed-by"
HASH_ANNOTATION = "io.casemate.manifest-hash"
GRACE_ANNOTATION = "io.casemate.grace-seconds"
NAME_LABEL = "io.kubernetes.pod.name"
NAMESPACE_LABEL = "io.kubernetes.pod.namespace"
UID_LABEL = "io.kubernetes.pod.uid"
CONTAINER_LABEL = "io.kubernetes.container.name"

_CFS_PERIOD_US = 100_000
# What containers should not see of /proc and /sys; the same paths as the engines' own default.
_MASKED = ["acpi", "kcore", "keys", "latency_stats", "timer_list", "timer_stats", "sched_debug", "scsi"]
_MASKED_PATHS = [f"/proc/{name}" for name in _MASKED] + ["/sys/firmware"]
_READONLY_PATHS = [f"/proc/{name}" for name in ("asound", "bus", "fs", "irq", "sys", "sysrq-trigger")]


class PodConfigError(Exception):
    """The manifest asks for something that cannot be had on this host; the message names the key."""


@dataclass(frozen=True)
class Surroundings:
    """What a container's configuration depends on besides the manifest."""

    address: str = ""  # the pod's IP address
    host_address: str = ""
    node_name: str = ""
    hosts_file: Path | None = None
    volume_paths: Mapping[str, Path] = field(default_factory=dict)
    load: Callable[[str, str, bool], dict[str, bytes]] = objects.load  # of ConfigMaps and Secrets


def managed_labels(pod_name: str = "") -> dict[str, str]:
    """The labels by which the engine finds our sandboxes: all, or those of one pod."""
    return {MANAGED_LABEL: "casemate-pod"} | ({NAME_LABEL: pod_name} if pod_name else {})


def log_directory(pod: Pod, root: Path = LOG_ROOT) -> Path:
    """Where the engine writes the pod's logs: NAMESPACE_NAME_UID/CONTAINER/ATTEMPT.log below `root`."""
    return root / f"{pod.namespace}_{pod.name}_{pod.uid}"


def sandbox_config(pod: Pod, attempt: int, resolv_conf: str, cgroup_parent: str = "") -> dict[str, Any]:
    """The PodSandboxConfig of a pod.

    `attempt` counts its sandboxes, `resolv_conf` is the host's file's content, `cgroup_parent` as in Settings.
    """
    metadata = pod.manifest["metadata"]
    security = pod.spec.get("securityContext") or {}
    ports = [port for container in pod.containers for port in container.get("ports") or [] if port.get("hostPort")]
    context: dict[str, Any] = {
        "namespace_options": _namespaces(pod),
        "privileged": any((c.get("securityContext") or {}).get("privileged") for c in _all_containers(pod)),
        "seccomp": {"profile_type": "RuntimeDefault"},
        "supplemental_groups": _groups(security),
    }
    linux: dict[str, Any] = {
        "security_context": context,
        "sysctls": {entry["name"]: entry["value"] for entry in security.get("sysctls") or []},
        "cgroup_parent": cgroup_parent,
    }
    if resources := pod_resources(pod):
        linux["resources"] = resources
    return {
        "metadata": {"name": pod.name, "uid": pod.uid, "namespace": pod.namespace, "attempt": attempt},
        "hostname": "" if pod.host_network else pod.spec.get("hostname") or pod.name,
        "log_directory": str(log_directory(pod)),
        "dns_config": dns_config(pod, resolv_conf),
        "port_mappings": []
        if pod.host_network
        else [
            {
                "protocol": port.get("protocol") or "TCP",
                "container_port": port["containerPort"],
                "host_port": port["hostPort"],
                "host_ip": port.get("hostIP") or "",
            }
            for port in ports
        ],
        "labels": {**(metadata.get("labels") or {}), **managed_labels(), **_identity(pod)},
        "annotations": {
            **(metadata.get("annotations") or {}),
            HASH_ANNOTATION: pod.hash,
            GRACE_ANNOTATION: str(pod.grace_seconds),
        },
        "linux": linux,
    }


def container_config(
    pod: Pod,
    container: dict[str, Any],
    attempt: int,
    image_ref: str,
    image_user: int | str | None,
    around: Surroundings,
) -> dict[str, Any]:
    """The ContainerConfig of one container.

    `image_ref` is the image as the engine knows it, `image_user` the user its configuration names. Raises
    PodConfigError and volumes.VolumeError.
    """
    variables = _environment(pod, container, around)
    expand = _expander(variables)
    name = container["name"]
    return {
        "metadata": {"name": name, "attempt": attempt},
        "image": {"image": image_ref},
        "command": [expand(part) for part in container.get("command") or []],
        "args": [expand(part) for part in container.get("args") or []],
        "working_dir": container.get("workingDir") or "",
        "envs": [{"key": key, "value": value} for key, value in variables.items()],
        "mounts": _mounts(pod, container, around),
        "labels": {CONTAINER_LABEL: name, **managed_labels(), **_identity(pod)},
        "annotations": {HASH_ANNOTATION: pod.hash, **_pre_stop(container, around)},
        "log_path": f"{name}/{attempt}.log",
        "stdin": bool(container.get("stdin")),
        "stdin_once": bool(container.get("stdinOnce")),
        "tty": bool(container.get("tty")),
        "linux": {
            "resources": container_resources(container),
            "security_context": _security(pod, container, image_user),
        },
    }


def container_resources(container: dict[str, Any]) -> dict[str, int]:
    """LinuxContainerResources of a container; what it does not limit is absent.

    A container that asks for no processor weighs as much as one that asks for a whole one.
    """
    resources = container.get("resources") or {}
    limits = resources.get("limits") or {}
    requests = {**limits, **(resources.get("requests") or {})}
    cpu = requests.get("cpu")
    # Always said: cgroup v2's default weight is 100, and runc makes 39 of a processor's 1024 shares.
    result = {"cpu_shares": 1024 if cpu is None else max(2, int(parse_quantity(cpu) * 1024))}
    if limits.get("cpu") is not None:
        result["cpu_period"] = _CFS_PERIOD_US
        result["cpu_quota"] = max(1000, int(parse_quantity(limits["cpu"]) * _CFS_PERIOD_US))  # the kernel's minimum
    if limits.get("memory") is not None:
        result["memory_limit_in_bytes"] = int(parse_quantity(limits["memory"]))
    return result


def pod_resources(pod: Pod) -> dict[str, int]:
    """LinuxContainerResources of the whole pod, which size its microVM.

    A sum is given only where every container has that limit: a pod with one unlimited container is unlimited.
    """
    each = [container_resources(container) for container in pod.containers]
    init = [container_resources(container) for container in pod.init_containers]
    result: dict[str, int] = {}
    for key in ("cpu_quota", "cpu_shares", "memory_limit_in_bytes"):
        if all(key in resources for resources in each):
            together = sum(resources[key] for resources in each)
            result[key] = max([together, *(resources.get(key, 0) for resources in init)])
    if "cpu_quota" in result:
        result["cpu_period"] = _CFS_PERIOD_US
    return result


def dns_config(pod: Pod, resolv_conf: str) -> dict[str, list[str]]:
    """The pod's resolver settings: the host's, unless dnsPolicy is None, and dnsConfig's added."""
    result: dict[str, list[str]] = {"servers": [], "searches": [], "options": []}
    if pod.spec.get("dnsPolicy") != "None":
        for line in resolv_conf.splitlines():
            key, *values = line.split() or [""]
            if key == "nameserver":
                result["servers"] += values[:1]
            elif key == "search":
                result["searches"] = values
            elif key == "options":
                result["options"] += values
    own = pod.spec.get("dnsConfig") or {}
    result["servers"] += own.get("nameservers") or []
    result["searches"] = result["searches"] + (own.get("searches") or [])
    result["options"] += [
        f"{option['name']}:{option['value']}" if option.get("value") is not None else option["name"]
        for option in own.get("options") or []
    ]
    return result


def _all_containers(pod: Pod) -> list[dict[str, Any]]:
    return pod.init_containers + pod.containers


def _identity(pod: Pod) -> dict[str, str]:
    return {NAME_LABEL: pod.name, NAMESPACE_LABEL: pod.namespace, UID_LABEL: pod.uid}


def _namespaces(pod: Pod) -> dict[str, str]:
    shared = "POD" if pod.spec.get("shareProcessNamespace") else "CONTAINER"
    return {
        "network": "NODE" if pod.host_network else "POD",
        "pid": "NODE" if pod.spec.get("hostPID") else shared,
        "ipc": "NODE" if pod.spec.get("hostIPC") else "POD",
    }


def _groups(security: Mapping[str, Any]) -> list[int]:
    own = security.get("supplementalGroups") or []
    group = security.get("fsGroup")
    return own if group is None or group in own else [*own, group]


def _pre_stop(container: dict[str, Any], around: Surroundings) -> dict[str, str]:
    """The annotation from which whoever stops the container knows what to do before."""
    hook = (container.get("lifecycle") or {}).get("preStop")
    if not hook:
        return {}
    return {hooks.PRE_STOP_ANNOTATION: json.dumps(hooks.resolved(hook, container, around.address))}


def _environment(pod: Pod, container: dict[str, Any], around: Surroundings) -> dict[str, str]:
    known = {
        "spec.nodeName": around.node_name,
        "status.podIP": around.address,
        "status.hostIP": around.host_address,
    }
    where = f"container {container['name']}"
    variables: dict[str, str] = {}
    for number, source in enumerate(container.get("envFrom") or []):
        place = f"{where}: envFrom[{number}]"
        kind, reference = _reference(source, "configMapRef", "secretRef")
        for key, value in _object(place, kind, reference, around).items():
            if kind == "ConfigMap" and not _is_text(value):
                continue  # its binaryData makes no variables, in Kubernetes either
            variables[f"{source.get('prefix') or ''}{key}"] = _text(value, f"{place}: key {key!r}")
    for entry in container.get("env") or []:
        source, name = entry.get("valueFrom"), entry["name"]
        if source is None:
            # A variable may refer to those before it, as in Kubernetes.
            variables[name] = _expander(variables)(entry.get("value") or "")
        elif source.get("fieldRef") is not None:
            variables[name] = downward.field(pod, source["fieldRef"]["fieldPath"], known)
        else:
            kind, reference = _reference(source, "configMapKeyRef", "secretKeyRef")
            entries = _object(f"{where}: env {name}", kind, reference, around)
            if reference["key"] in entries:
                variables[name] = _text(entries[reference["key"]], f"{where}: env {name}")
            elif not reference.get("optional"):
                raise PodConfigError(
                    f"{where}: env {name}: {kind} {reference['name']!r} has no key {reference['key']!r}"
                )
    return variables


def _reference(source: dict[str, Any], config_map: str, secret: str) -> tuple[str, dict[str, Any]]:
    if source.get(config_map) is not None:
        return "ConfigMap", source[config_map]
    return "Secret", source[secret]


def _object(where: str, kind: str, reference: dict[str, Any], around: Surroundings) -> dict[str, bytes]:
    try:
        return around.load(kind, reference["name"], bool(reference.get("optional")))
    except ManifestError as error:
        raise PodConfigError(f"{where}: {error}") from None


def _is_text(value: bytes) -> bool:
    try:
        return "\0" not in value.decode()
    except UnicodeDecodeError:
        return False


def _text(value: bytes, where: str) -> str:
    if not _is_text(value):
        raise PodConfigError(f"{where}: its value is no text, which a variable has to be; use a volume")
    return value.decode()


def _expander(variables: Mapping[str, str]) -> Callable[[str], str]:
    """Replace $(NAME) by a variable's value; unknown ones stay, and $$ is a plain $."""

    def replace(match: re.Match) -> str:
        return "$" if match[0] == "$$" else variables.get(match[1], match[0])

    return lambda text: re.sub(r"\$\$|\$\(([^()]+)\)", replace, text)


def _mounts(pod: Pod, container: dict[str, Any], around: Surroundings) -> list[dict[str, Any]]:
    mounts: list[dict[str, Any]] = []
    for number, mount in enumerate(container.get("volumeMounts") or []):
        source = around.volume_paths[mount["name"]]
        if mount.get("subPath"):
            source = volumes.sub_path(pod.name, source, mount["subPath"], f"{container['name']}-{number}")
        mounts.append(
            {
                "container_path": mount["mountPath"],
                "host_path": str(source),
                "readonly": bool(mount.get("readOnly")) or volumes.is_read_only(pod, mount["name"]),
                "propagation": "PROPAGATION_PRIVATE",
            }
        )
    if around.hosts_file and all(mount["container_path"] != "/etc/hosts" for mount in mounts):
        mounts.append({"container_path": "/etc/hosts", "host_path": str(around.hosts_file)})
    return mounts


def _security(pod: Pod, container: dict[str, Any], image_user: int | str | None) -> dict[str, Any]:
    own = container.get("securityContext") or {}
    effective = {**(pod.spec.get("securityContext") or {}), **{k: v for k, v in own.items() if v is not None}}
    where = f"container {container['name']}: securityContext"
    privileged = bool(effective.get("privileged"))
    user, group = effective.get("runAsUser"), effective.get("runAsGroup")
    if group is not None and user is None:
        raise PodConfigError(f"{where}.runAsGroup needs runAsUser as well")
    if effective.get("runAsNonRoot"):
        actual = image_user if user is None else user
        if actual in (0, None, "", "root"):
            raise PodConfigError(f"{where}.runAsNonRoot is true, but the container would run as root; set runAsUser")
        if isinstance(actual, str):
            raise PodConfigError(
                f"{where}.runAsNonRoot cannot be checked for the image's user {actual!r}; set runAsUser"
            )
    if privileged and effective.get("allowPrivilegeEscalation") is False:
        raise PodConfigError(f"{where}.allowPrivilegeEscalation cannot be false when privileged is true")
    capabilities = effective.get("capabilities") or {}
    result: dict[str, Any] = {
        "privileged": privileged,
        "namespace_options": _namespaces(pod),
        "readonly_rootfs": bool(effective.get("readOnlyRootFilesystem")),
        "no_new_privs": effective.get("allowPrivilegeEscalation") is False,
        "supplemental_groups": _groups(effective),
        "capabilities": {
            "add_capabilities": capabilities.get("add") or [],
            "drop_capabilities": capabilities.get("drop") or [],
        },
        # Stricter than Kubernetes' own default, which is no filter at all.
        "seccomp": {"profile_type": (effective.get("seccompProfile") or {}).get("type") or "RuntimeDefault"},
    }
    if privileged:
        result["seccomp"] = {"profile_type": "Unconfined"}
    else:
        result["masked_paths"], result["readonly_paths"] = _MASKED_PATHS, _READONLY_PATHS
    if user is not None:
        result["run_as_user"] = {"value": user}
    if group is not None:
        result["run_as_group"] = {"value": group}
    return result
