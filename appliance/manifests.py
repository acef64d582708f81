"""The Pod manifests of an inventory, judged by the pod runner's own rules before any host is touched.

What a single manifest may say is `appliance.node.pods.manifest`'s business. Here are only the things that it cannot
see on the host: values that are known later, names and ports that clash between pods, and secrets in clear text.
"""

import re
from collections.abc import Iterator, Mapping, Sequence

from appliance.formats import IMAGE
from appliance.node.pods import manifest
from appliance.node.pods import schema as kubernetes
from appliance.positions import KeyPath
from appliance.schema import UNKNOWN, Finding, is_secret_name

# The pod that `pods_demo: true` adds to the inventory's.
DEMO = "demo"


# Variables that hold the documents pods name, and their kind.
OBJECTS = {"pods_configmaps": "ConfigMap", "pods_secrets": "Secret"}


def check_pods(pods: object, default_handler: str) -> Iterator[Finding]:
    """Everything wrong with the value of the variable `pods`; paths start below it."""
    if not isinstance(pods, list):
        yield Finding((), pods, "is not a list", "a list of Kubernetes Pod manifests; [] for none")
        return
    first: dict[str, int] = {}
    for number, pod in enumerate(pods):
        if pod is UNKNOWN:
            continue
        if not isinstance(pod, Mapping):
            yield Finding((number,), pod, "is not a mapping", "a Kubernetes Pod manifest")
            continue
        for problem in manifest.check(pod, default_handler):
            path, value = _follow(pod, problem.path)
            if value is not UNKNOWN:
                yield Finding((number, *path), None, problem.message, "")
        for place, container in _containers(pod):
            image = container.get("image")
            if isinstance(image, str) and image and not IMAGE.accepts(image):
                yield Finding((number, "spec", *place, "image"), image, "has the wrong form", IMAGE.expected)
        name = _name(pod)
        if name and first.setdefault(name, number) != number:
            path = (number, "metadata", "name")
            yield Finding(path, name, f"is the name of pods[{first[name]}] too", "one name a pod on a host")


def check_objects(objects: object, kind: str) -> Iterator[Finding]:
    """Everything wrong with the value of `pods_configmaps` or `pods_secrets`; paths start below it."""
    names: set[str] = set()
    for number, document in enumerate(_list(objects)):
        if not isinstance(document, Mapping):
            continue  # which the variable's type tells
        for problem in kubernetes.check(document, kind):
            path, value = _follow(document, problem.path)
            if value is not UNKNOWN:
                message = problem.message.partition("; got ")[0] if kind == "Secret" else problem.message
                yield Finding((number, *path), None, message, "", kind == "Secret")
        name = _name(document)
        if name and name in names:
            yield Finding((number, "metadata", "name"), name, "is used more than once", f"one {kind} of a name")
        names.add(name)
        for key in ("data", "stringData") if kind == "Secret" else ():
            for entry, value in (document.get(key) or {}).items() if isinstance(document.get(key), Mapping) else ():
                if isinstance(value, str) and value:
                    expected = "!vault with the encrypted value"
                    yield Finding((number, key, entry), None, "is a secret in clear text", expected, True)


def claims(pods: object) -> Iterator[tuple[KeyPath, str]]:
    """Path below `pods` and name of every volume of the pool that a pod claims."""
    for number, pod in enumerate(_list(pods)):
        spec = pod.get("spec") if isinstance(pod, Mapping) else None
        for index, volume in enumerate(_list(spec.get("volumes")) if isinstance(spec, Mapping) else ()):
            claim = volume.get("persistentVolumeClaim") if isinstance(volume, Mapping) else None
            if isinstance(claim, Mapping) and isinstance(claim.get("claimName"), str):
                path = (number, "spec", "volumes", index, "persistentVolumeClaim", "claimName")
                yield path, claim["claimName"]


def place_of(pods: object, name: str) -> KeyPath | None:
    """Path below `pods` to the name of the pod that is called `name`, if one is."""
    for number, pod in enumerate(_list(pods)):
        if isinstance(pod, Mapping) and _name(pod) == name:
            return (number, "metadata", "name")
    return None


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
                if not isinstance(variable, Mapping) or not is_secret_name(str(variable.get("name", ""))):
                    continue
                if isinstance(variable.get("value"), str) and variable["value"]:
                    yield (number, "spec", *place, "env", index, "value")


def _name(pod: Mapping) -> str:
    metadata = pod.get("metadata")
    name = metadata.get("name") if isinstance(metadata, Mapping) else None
    return name if isinstance(name, str) else ""


def _containers(pod: object) -> Iterator[tuple[KeyPath, Mapping]]:
    spec = pod.get("spec") if isinstance(pod, Mapping) else None
    for section in ("initContainers", "containers"):
        for index, container in enumerate(_list(spec.get(section)) if isinstance(spec, Mapping) else ()):
            if isinstance(container, Mapping):
                yield (section, index), container


def _list(value: object) -> Sequence:
    return value if isinstance(value, list) else ()


def _follow(pod: Mapping, dotted: str) -> tuple[KeyPath, object]:
    """The runner's dotted path as steps, and what the pod has there (None where it has nothing).

    A label's name may itself hold dots, so a step is the longest key that is there.
    """
    path: list[str | int] = []
    value: object = pod
    rest = dotted
    while rest:
        if match := re.match(r"\[(\d+)\]\.?", rest):
            step: str | int = int(match[1])
            value = value[step] if isinstance(value, list) and step < len(value) else None
            rest = rest[match.end() :]
        else:
            keys = [key for key in value if _starts_with(rest, str(key))] if isinstance(value, Mapping) else []
            step = max(map(str, keys), key=len) if keys else re.split(r"[.\[]", rest, maxsplit=1)[0]
            value = value.get(step) if isinstance(value, Mapping) else None
            rest = rest[len(step) :].removeprefix(".")
        path.append(step)
    return tuple(path), value


def _starts_with(rest: str, key: str) -> bool:
    return bool(key) and (rest == key or rest.startswith((f"{key}.", f"{key}[")))
