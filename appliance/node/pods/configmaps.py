"""ConfigMaps without a cluster: Kubernetes v1 ConfigMap documents in /etc/casemate/configmaps/NAME.yaml."""

import base64
import binascii
from pathlib import Path

import yaml

DIRECTORY = Path("/etc/casemate/configmaps")


class ConfigMapError(Exception):
    """A ConfigMap that a pod needs is missing or wrong; the message names the file and the key."""


def load(name: str, directory: Path = DIRECTORY) -> dict[str, bytes] | None:
    """The entries of a ConfigMap, or None where there is no such file. Raises ConfigMapError for a wrong one."""
    path = directory / f"{name}.yaml"
    try:
        document = yaml.safe_load(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigMapError(f"{path}: cannot be read as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(document, dict) or document.get("kind") != "ConfigMap":
        raise ConfigMapError(f"{path}: kind: expected ConfigMap")
    entries: dict[str, bytes] = {}
    for key, value in (document.get("data") or {}).items():
        if not isinstance(value, str):
            raise ConfigMapError(f"{path}: data.{key}: expected a string (put it in quotes)")
        entries[key] = value.encode()
    for key, value in (document.get("binaryData") or {}).items():
        try:
            entries[key] = base64.b64decode(value, validate=True)
        except (TypeError, ValueError, binascii.Error):
            raise ConfigMapError(f"{path}: binaryData.{key}: expected base64") from None
    return entries


def require(name: str, optional: bool = False, directory: Path = DIRECTORY) -> dict[str, bytes]:
    """Like load, but a missing one is an error unless it is `optional`; then it has no entries."""
    entries = load(name, directory)
    if entries is None and not optional:
        raise ConfigMapError(f"{directory / name}.yaml: the pod needs this ConfigMap and it does not exist")
    return entries or {}
