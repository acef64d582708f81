"""EdgeCore's configuration: made of what is declared, and compared by meaning, as EdgeCore writes its file anew.

At its start EdgeCore may add every default, drop what it does not know, and blank the token. So each key that any
option of ours changes is always written, and only what we write is compared.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import yaml

from appliance.node.pods.settings import Settings as Engine

from . import settings
from .settings import Declared

# the same whatever EdgeCore made of the file
_NOT_COMPARED = {("edgecoreVersion",), ("modules", "edgeHub", "token")}
# maps whose keys are the admin's: one too many is a difference
_WHOLE = {("modules", "edged", "nodeLabels")}


def render(declared: Declared, engine: Engine, token: str = "") -> dict[str, Any]:
    """The document, apiVersion edgecore.config.kubeedge.io/v1alpha2."""
    socket = f"unix://{engine.socket}"
    return {
        "apiVersion": "edgecore.config.kubeedge.io/v1alpha2",
        "kind": "EdgeCore",
        # EdgeCore writes its file anew where this is another version than its own
        "edgecoreVersion": declared.version,
        "database": {"dataSource": str(settings.DATABASE)},
        "modules": {
            "edgeHub": {
                "enable": True,
                "httpServer": f"https://{declared.cloud_https}",
                "token": token,
                "tlsCaFile": str(settings.CA),
                "tlsCertFile": str(settings.CERTIFICATE),
                "tlsPrivateKeyFile": str(settings.KEY),
                "rotateCertificates": True,
                "websocket": {"enable": True, "server": declared.cloud},
                # exactly one of the two may be on
                "quic": {"enable": False},
            },
            "edged": {
                "enable": True,
                "hostnameOverride": declared.node_name,
                **({"nodeIP": declared.node_ip} if declared.node_ip else {}),
                "nodeLabels": declared.node_labels,
                "podSandboxImage": "localhost/casemate/pause:1",
                "rootDirectory": str(settings.KUBELET),
                "tailoredKubeletConfig": {
                    "containerRuntimeEndpoint": socket,
                    "imageServiceEndpoint": socket,
                    "cgroupDriver": engine.cgroup_driver,
                    "staticPodPath": str(settings.PODS if declared.static_pods else settings.NO_PODS),
                    "address": "127.0.0.1",
                    # on, this port runs commands in any container for whoever connects, without asking who that is
                    "enableDebuggingHandlers": False,
                    "enableProfilingHandler": False,
                    "enableDebugFlagsHandler": False,
                    "enableSystemLogHandler": False,
                    # chains for kube-proxy, which EdgeCore does not run beside
                    "makeIPTablesUtilChains": False,
                },
            },
            "eventBus": {
                "enable": declared.broker != "none",
                "mqttMode": 2,
                "mqttServerExternal": f"tcp://{declared.broker_address or '127.0.0.1:1883'}",
            },
            "metaManager": {
                "enable": True,
                "metaServer": {
                    "enable": bool(declared.metaserver),
                    "server": declared.metaserver or "127.0.0.1:10550",
                },
            },
            # mappers get the whole directory of this socket
            "deviceTwin": {"enable": declared.dmi, "dmiSockPath": str(settings.DMI / "dmi.sock")},
            "edgeStream": {"enable": False},
            "serviceBus": {"enable": False},
            "taskManager": {"enable": False},
        },
    }


def digest(document: dict[str, Any]) -> str:
    """16 hex digits that change with the document's meaning; the token does not count."""
    hub = {**document["modules"]["edgeHub"], "token": ""}
    meaning = {**document, "modules": {**document["modules"], "edgeHub": hub}}
    return hashlib.sha256(json.dumps(meaning, sort_keys=True).encode()).hexdigest()[:16]


def differences(wanted: dict[str, Any], path: Path = settings.CONFIG) -> list[str]:
    """Dotted keys whose value in the file is not the wanted one; ["the file"] where it is missing or not YAML."""
    try:
        found = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, yaml.YAMLError):
        return ["the file"]
    return list(_differences(wanted, found, ()))


def _differences(wanted: Any, found: Any, path: tuple[str, ...]):
    if path in _NOT_COMPARED:
        return
    if not isinstance(wanted, dict) or path in _WHOLE:
        # an empty map or a false is left out by EdgeCore's own writer
        if wanted != found and not (wanted in ({}, False, "") and found is None):
            yield ".".join(path)
        return
    for key, value in wanted.items():
        yield from _differences(value, found.get(key) if isinstance(found, dict) else None, (*path, key))


def write(document: dict[str, Any], path: Path = settings.CONFIG) -> None:
    """Put the document in place in one step, readable by root alone."""
    restore(yaml.safe_dump(document, sort_keys=False).encode(), path)


def restore(text: bytes, path: Path = settings.CONFIG) -> None:
    """Put these bytes in place in one step, readable by root alone."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    new = path.with_name(f".{path.name}.new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, 0o600)
        file.write(text)
        file.flush()
        os.fsync(descriptor)
    new.replace(path)


def forget_token(path: Path = settings.CONFIG) -> None:
    """Blank the token, where EdgeCore has not done so itself."""
    document = yaml.safe_load(path.read_text("utf-8"))
    hub = document["modules"]["edgeHub"]
    if hub.get("token"):
        hub["token"] = ""
        write(document, path)
