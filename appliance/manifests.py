"""Kubernetes Pod manifests in an inventory: what can be seen to be wrong before any host is touched.

The pod runner and EdgeCore have the last word. This catches what a person gets wrong in YAML: a missing image, a
misspelt key, a number where Kubernetes wants text, names that clash.
"""

from collections.abc import Iterator, Mapping, Sequence

from appliance.formats import DNS_LABEL, DNS_NAME, IMAGE, PATH, PORT, QUANTITY, Format
from appliance.positions import KeyPath, suggestion
from appliance.schema import UNKNOWN, Finding, is_secret_name

# Keys of the Kubernetes API v1, so that a misspelt one is refused instead of ignored.
_POD_KEYS = ("apiVersion", "kind", "metadata", "spec")
_METADATA_KEYS = ("name", "namespace", "labels", "annotations", "uid")
_SPEC_KEYS = [
    "activeDeadlineSeconds",
    "affinity",
    "automountServiceAccountToken",
    "containers",
    "dnsConfig",
    "dnsPolicy",
    "enableServiceLinks",
    "ephemeralContainers",
    "hostAliases",
    "hostIPC",
    "hostNetwork",
    "hostPID",
    "hostUsers",
    "hostname",
    "hostnameOverride",
    "imagePullSecrets",
    "initContainers",
    "nodeName",
    "nodeSelector",
    "os",
    "overhead",
    "preemptionPolicy",
    "priority",
    "priorityClassName",
    "readinessGates",
    "resourceClaims",
    "resources",
    "restartPolicy",
    "runtimeClassName",
    "schedulerName",
    "schedulingGates",
    "securityContext",
    "serviceAccount",
    "serviceAccountName",
    "setHostnameAsFQDN",
    "shareProcessNamespace",
    "subdomain",
    "terminationGracePeriodSeconds",
    "tolerations",
    "topologySpreadConstraints",
    "volumes",
]
_CONTAINER_KEYS = [
    "args",
    "command",
    "env",
    "envFrom",
    "image",
    "imagePullPolicy",
    "lifecycle",
    "livenessProbe",
    "name",
    "ports",
    "readinessProbe",
    "resizePolicy",
    "resources",
    "restartPolicy",
    "restartPolicyRules",
    "securityContext",
    "startupProbe",
    "stdin",
    "stdinOnce",
    "terminationMessagePath",
    "terminationMessagePolicy",
    "tty",
    "volumeDevices",
    "volumeMounts",
    "workingDir",
]
_PORT_KEYS = ("containerPort", "hostIP", "hostPort", "name", "protocol")
_RESTART_POLICIES = ("Always", "OnFailure", "Never")
_PROTOCOLS = ("TCP", "UDP", "SCTP")


def check_pods(pods: object) -> Iterator[Finding]:
    """Everything wrong with the value of the variable `pods`; paths start below it."""
    if not isinstance(pods, list):
        yield Finding((), pods, "is not a list", "a list of Kubernetes Pod manifests; [] for none")
        return
    first: dict[tuple[str, str], int] = {}
    for number, pod in enumerate(pods):
        if pod is UNKNOWN:
            continue
        yield from _check_pod(pod, (number,))
        name, namespace = pod_name(pod)
        if name and first.setdefault((namespace, name), number) != number:
            yield Finding(
                (number, "metadata", "name"),
                name,
                f"is the name of pods[{first[namespace, name]}] too",
                "one name a pod in a namespace",
            )


def pod_name(pod: object) -> tuple[str, str]:
    """Name and namespace of a manifest; the name is empty where there is none to be had."""
    metadata = pod.get("metadata") if isinstance(pod, Mapping) else None
    if not isinstance(metadata, Mapping):
        return "", ""
    name, namespace = metadata.get("name"), metadata.get("namespace", "default")
    return (name if isinstance(name, str) else ""), str(namespace)


def host_ports(pods: object) -> Iterator[tuple[KeyPath, int, str]]:
    """Path below `pods`, number and protocol of every port that pods take on the host."""
    for number, pod in enumerate(_list(pods)):
        for place, container in _containers(pod):
            for index, port in enumerate(_list(container.get("ports"))):
                if isinstance(port, Mapping) and isinstance(port.get("hostPort"), int):
                    path = (number, "spec", *place, "ports", index, "hostPort")
                    yield path, port["hostPort"], str(port.get("protocol", "TCP"))


def clear_environment(pods: object) -> Iterator[KeyPath]:
    """Paths below `pods` of environment values that are secrets by their name, written in clear text."""
    for number, pod in enumerate(_list(pods)):
        for place, container in _containers(pod):
            for index, variable in enumerate(_list(container.get("env"))):
                if (
                    isinstance(variable, Mapping)
                    and is_secret_name(str(variable.get("name", "")))
                    and isinstance(variable.get("value"), str)
                    and variable["value"]
                ):
                    yield (number, "spec", *place, "env", index, "value")


def _containers(pod: object) -> Iterator[tuple[KeyPath, Mapping]]:
    spec = pod.get("spec") if isinstance(pod, Mapping) else None
    for section in ("initContainers", "containers"):
        for index, container in enumerate(_list(spec.get(section)) if isinstance(spec, Mapping) else ()):
            if isinstance(container, Mapping):
                yield (section, index), container


def _list(value: object) -> Sequence:
    return value if isinstance(value, list) else ()


def _check_pod(pod: object, path: KeyPath) -> Iterator[Finding]:
    if not isinstance(pod, Mapping):
        yield Finding(path, pod, "is not a mapping", "a Kubernetes Pod manifest")
        return
    yield from _unknown_keys(pod, _POD_KEYS, path)
    for key, wanted in (("apiVersion", "v1"), ("kind", "Pod")):
        if key not in pod:
            yield Finding(path, None, f"lacks {key}", f"{key}: {wanted}")
        elif pod[key] != wanted:
            yield Finding((*path, key), pod[key], "is not what is run here", f"{key}: {wanted}")
    metadata, spec = pod.get("metadata"), pod.get("spec")
    if not isinstance(metadata, Mapping) or "name" not in metadata:
        yield Finding(path, None, "has no name", "metadata: with name: below it")
    else:
        here = (*path, "metadata")
        yield from _unknown_keys(metadata, _METADATA_KEYS, here)
        yield from _form(metadata, "name", DNS_NAME, here)
        yield from _form(metadata, "namespace", DNS_LABEL, here)
        for section in ("labels", "annotations"):
            yield from _words(metadata, section, here)
    if not isinstance(spec, Mapping):
        yield Finding(path, None, "has no spec", "spec: with containers: below it")
    else:
        yield from _check_spec(spec, (*path, "spec"))


def _check_spec(spec: Mapping, path: KeyPath) -> Iterator[Finding]:
    yield from _unknown_keys(spec, _SPEC_KEYS, path)
    yield from _choice(spec, "restartPolicy", _RESTART_POLICIES, path)
    yield from _form(spec, "runtimeClassName", DNS_NAME, path)
    if not spec.get("containers"):
        yield Finding(path, None, "has no containers", "containers: with at least one `- name:` and `image:`")
    volumes = set()
    for index, volume in enumerate(_list(spec.get("volumes"))):
        here = (*path, "volumes", index)
        if not isinstance(volume, Mapping) or "name" not in volume:
            yield Finding(here, None, "has no name", "name: and the kind of volume, such as emptyDir: {}")
            continue
        yield from _form(volume, "name", DNS_LABEL, here)
        volumes.add(volume["name"])
    names: set[str] = set()
    for section in ("initContainers", "containers"):
        if section in spec and not isinstance(spec[section], list | None):
            yield Finding((*path, section), None, "is not a list", "a list: `- name:` and `image:`")
            continue
        for index, container in enumerate(_list(spec.get(section))):
            yield from _check_container(container, (*path, section, index), names, volumes)


def _check_container(container: object, path: KeyPath, names: set[str], volumes: set[str]) -> Iterator[Finding]:
    if not isinstance(container, Mapping):
        yield Finding(path, container, "is not a mapping", "name: and image: of a container")
        return
    yield from _unknown_keys(container, _CONTAINER_KEYS, path)
    for key, wanted in (("name", DNS_LABEL), ("image", IMAGE)):
        if container.get(key) in (None, ""):
            yield Finding(path, None, f"has no {key}", f"{key}: {wanted.expected}")
        else:
            yield from _form(container, key, wanted, path)
    name = container.get("name")
    if isinstance(name, str):
        if name in names:
            yield Finding((*path, "name"), name, "is the name of another container of this pod", "one name a container")
        names.add(name)
    for key in ("command", "args"):
        value = container.get(key)
        if value is not None and not (
            isinstance(value, list) and all(isinstance(word, str | type(UNKNOWN)) for word in value)
        ):
            yield Finding((*path, key), value, "is not a list of words", 'a list of texts, such as ["sleep", "60"]')
    yield from _check_ports(container, path)
    yield from _check_environment(container, path)
    yield from _check_mounts(container, path, volumes)
    yield from _check_resources(container, path)


def _check_ports(container: Mapping, path: KeyPath) -> Iterator[Finding]:
    for index, port in enumerate(_list(container.get("ports"))):
        here = (*path, "ports", index)
        if not isinstance(port, Mapping) or "containerPort" not in port:
            yield Finding(here, port, "has no containerPort", "containerPort: a number from 1 to 65535")
            continue
        yield from _unknown_keys(port, _PORT_KEYS, here)
        for key in ("containerPort", "hostPort"):
            yield from _form(port, key, PORT, here)
        yield from _choice(port, "protocol", _PROTOCOLS, here)


def _check_environment(container: Mapping, path: KeyPath) -> Iterator[Finding]:
    for index, variable in enumerate(_list(container.get("env"))):
        here = (*path, "env", index)
        if not isinstance(variable, Mapping) or not isinstance(variable.get("name"), str):
            yield Finding(here, None, "has no name", "name: and value: of an environment variable")
            continue
        value = variable.get("value", "")
        if not isinstance(value, str | type(UNKNOWN)):
            yield Finding((*here, "value"), value, "is not text", "text: put it in quotes")


def _check_mounts(container: Mapping, path: KeyPath, volumes: set[str]) -> Iterator[Finding]:
    for index, mount in enumerate(_list(container.get("volumeMounts"))):
        here = (*path, "volumeMounts", index)
        if not isinstance(mount, Mapping) or "name" not in mount or "mountPath" not in mount:
            yield Finding(here, None, "lacks name or mountPath", "name: of a volume and mountPath: in the container")
            continue
        yield from _form(mount, "mountPath", PATH, here)
        if mount["name"] is not UNKNOWN and mount["name"] not in volumes:
            hint = suggestion(str(mount["name"]), map(str, volumes))
            yield Finding(
                (*here, "name"),
                mount["name"],
                "is no volume of this pod" + (f"; {hint}" if hint else ""),
                "the name of an entry of spec.volumes",
            )


def _check_resources(container: Mapping, path: KeyPath) -> Iterator[Finding]:
    resources = container.get("resources")
    if resources is None:
        return
    here = (*path, "resources")
    if not isinstance(resources, Mapping):
        yield Finding(here, resources, "is not a mapping", "limits: and requests:")
        return
    yield from _unknown_keys(resources, ("limits", "requests", "claims"), here)
    for section in ("limits", "requests"):
        amounts = resources.get(section)
        for key, amount in amounts.items() if isinstance(amounts, Mapping) else ():
            text = str(amount) if isinstance(amount, int | float) and not isinstance(amount, bool) else amount
            yield from _form({key: text}, key, QUANTITY, (*here, section))


def _unknown_keys(mapping: Mapping, known: Sequence[str], path: KeyPath) -> Iterator[Finding]:
    for key in mapping:
        if key not in known:
            hint = suggestion(str(key), known)
            yield Finding(
                (*path, str(key)),
                None,
                "is not known to Kubernetes here" + (f"; {hint}" if hint else ""),
                "one of " + ", ".join(known),
            )


def _form(mapping: Mapping, key: str, wanted: Format, path: KeyPath) -> Iterator[Finding]:
    value = mapping.get(key)
    if value is not None and value is not UNKNOWN and not wanted.accepts(value):
        yield Finding((*path, key), value, "has the wrong form", wanted.expected)


def _choice(mapping: Mapping, key: str, choices: Sequence[str], path: KeyPath) -> Iterator[Finding]:
    value = mapping.get(key)
    if value is not None and value is not UNKNOWN and value not in choices:
        yield Finding((*path, key), value, "is none of the choices", "one of " + ", ".join(choices))


def _words(mapping: Mapping, section: str, path: KeyPath) -> Iterator[Finding]:
    values = mapping.get(section)
    if values is None:
        return
    if not isinstance(values, Mapping):
        yield Finding((*path, section), values, "is not a mapping", "name: text")
        return
    for key, value in values.items():
        if not isinstance(value, str | type(UNKNOWN)):
            yield Finding((*path, section, str(key)), value, "is not text", "text: put it in quotes")
