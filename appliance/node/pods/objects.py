"""ConfigMaps and Secrets without a cluster: Kubernetes v1 documents, one a file called like the object.

They lie beside the pods' manifests, in /etc/casemate/configmaps and /etc/casemate/secrets. Only root may read a Secret.
"""

import base64
import binascii
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import documents
from .documents import ManifestError, Problem

ROOT = Path("/etc/casemate")
FOLDERS = {"ConfigMap": "configmaps", "Secret": "secrets"}
DIRECTORIES = [ROOT / folder for folder in FOLDERS.values()]


def load(kind: str, name: str, optional: bool = False, root: Path = ROOT) -> dict[str, bytes]:
    """The entries of a ConfigMap or Secret; an `optional` one that is not there has none. Raises ManifestError."""
    document = _document(kind, name, root)
    if document is None:
        if optional:
            return {}
        raise ManifestError(
            root / FOLDERS[kind] / f"{name}.yaml", [f"does not exist; the pod needs this {kind} (or optional: true)"]
        )
    return _entries(document[0])


def pull_credentials(name: str, root: Path = ROOT) -> dict[str, dict[str, str]]:
    """What a Secret of an image registry says, by registry: CRI's AuthConfig fields. Raises ManifestError."""
    entries = load("Secret", name, root=root)
    source = root / FOLDERS["Secret"] / f"{name}.yaml"
    for key in (".dockerconfigjson", ".dockercfg"):
        if key not in entries:
            continue
        try:
            given = json.loads(entries[key])
            given = given["auths"] if key == ".dockerconfigjson" else given
            return {registry: _auth(entry) for registry, entry in given.items()}
        except (ValueError, KeyError, TypeError, AttributeError):
            # what is wrong is not told: it could tell the secret
            raise ManifestError(
                source, [f"{key}: expected what `docker login` writes, with auths by registry"]
            ) from None
    raise ManifestError(source, ["expected .dockerconfigjson or .dockercfg in a Secret for imagePullSecrets"])


def digest(spec: dict[str, Any], root: Path = ROOT) -> str:
    """Changes with the files of all objects that a pod's spec names, and is empty where it names none."""
    found = []
    for kind, name in sorted(set(references(spec))):
        try:
            document = _document(kind, name, root)
            found.append([kind, name, document[1] if document else ""])
        except ManifestError as error:
            found.append([kind, name, str(error)])
    return hashlib.sha256(json.dumps(found).encode()).hexdigest() if found else ""


def references(spec: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Kind and name of every ConfigMap and Secret that a checked pod spec names."""
    for container in [*(spec.get("initContainers") or []), *spec["containers"]]:
        for variable in container.get("env") or []:
            source = variable.get("valueFrom") or {}
            yield from _named(source, "configMapKeyRef", "secretKeyRef")
        for source in container.get("envFrom") or []:
            yield from _named(source, "configMapRef", "secretRef")
    for volume in spec.get("volumes") or []:
        for source in [volume, *((volume.get("projected") or {}).get("sources") or [])]:
            yield from _named(source, "configMap", "secret")
    for secret in spec.get("imagePullSecrets") or []:
        yield "Secret", secret["name"]


def _named(source: dict[str, Any], config_map: str, secret: str) -> Iterator[tuple[str, str]]:
    for kind, key in (("ConfigMap", config_map), ("Secret", secret)):
        if source.get(key) is not None:
            yield kind, source[key].get("secretName") or source[key]["name"]


def _document(kind: str, name: str, root: Path) -> tuple[dict[str, Any], str] | None:
    for suffix in documents.SUFFIXES:
        path = root / FOLDERS[kind] / f"{name}{suffix}"
        try:
            if kind == "Secret" and path.stat().st_mode & 0o077 and path.parent.stat().st_mode & 0o077:
                raise ManifestError(path, [f"may be read by others than root; run: chmod 600 {path}"])
            return documents.load(path, kind, lambda document: _check(document, kind, name))
        except FileNotFoundError:
            continue
        except OSError as error:
            raise ManifestError(path, [f"cannot be read: {error.strerror}"]) from None
    return None


def _check(document: Any, kind: str, name: str) -> list[Problem]:
    from . import schema  # not for every runner to hold

    problems = schema.check(document, kind)
    if kind == "Secret":  # what a value is instead is not for a log
        problems = [Problem(problem.path, problem.message.partition("; got ")[0]) for problem in problems]
    if problems:
        return problems
    if document["metadata"]["name"] != name:
        problems.append(Problem("metadata.name", f"expected {name!r}, as the file is called"))
    try:
        _entries(document)
    except _NotBase64 as error:
        problems.append(Problem(str(error), "expected base64"))
    return problems


class _NotBase64(Exception):
    pass


def _entries(document: dict[str, Any]) -> dict[str, bytes]:
    plain, encoded = ("stringData", "data") if document["kind"] == "Secret" else ("data", "binaryData")
    entries = {}
    for key, value in (document.get(encoded) or {}).items():
        try:
            entries[key] = base64.b64decode("".join(value.split()), validate=True)
        except (ValueError, binascii.Error):
            raise _NotBase64(f"{encoded}.{key}") from None
    return entries | {key: value.encode() for key, value in (document.get(plain) or {}).items()}


def _auth(entry: dict[str, str]) -> dict[str, str]:
    if entry.get("auth"):
        username, _, password = base64.b64decode(entry["auth"]).decode().partition(":")
        return {"username": username, "password": password}
    return {"username": entry["username"], "password": entry["password"]}
