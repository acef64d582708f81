"""Filters of role pods: from manifests, ConfigMaps and Secrets to files."""

from __future__ import annotations

from collections.abc import Mapping

import yaml
from ansible.errors import AnsibleFilterError
from ansible.parsing.vault import EncryptedString
from ansible.parsing.yaml.dumper import AnsibleDumper

DIRECTORY = "/etc/casemate"
FOLDERS = {"ConfigMap": "configmaps", "Secret": "secrets"}


def casemate_manifest_files(documents: list, header: str) -> list[dict]:
    """The entries of `casemate_files` that write each manifest, ConfigMap and Secret below `header`, a comment."""
    files = []
    for document in documents:
        try:
            name = document["metadata"]["name"]
        except (KeyError, TypeError):
            raise AnsibleFilterError(
                "pods, pods_configmaps, pods_secrets: an item has no metadata.name; each is a Kubernetes document"
            ) from None
        text = yaml.dump(
            _decrypted(document), Dumper=AnsibleDumper, default_flow_style=False, sort_keys=False, allow_unicode=True
        )
        # a manifest's environment may hold secrets: only root reads it, and no diff shows it
        files.append(
            {
                "dest": f"{DIRECTORY}/{FOLDERS.get(document.get('kind'), 'pods')}/{name}.yaml",
                "content": f"{header}\n{text}",
                "mode": "0600",
                "no_log": document.get("kind") == "Secret" or _has_environment(document),
            }
        )
    return files


def casemate_left_over_files(paths: list, documents: list) -> list[dict]:
    """The entries of `casemate_files` that remove those of `paths` which are no longer among `documents`."""
    wanted = {entry["dest"] for entry in casemate_manifest_files(documents, "")}
    return [{"dest": str(path), "state": "absent"} for path in paths if path not in wanted]


def _decrypted(value):
    """The value without Ansible's tags: for a text that was vaulted, its dumper would write the ciphertext."""
    if isinstance(value, Mapping):
        return {key: _decrypted(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_decrypted(entry) for entry in value]
    return str(value).encode().decode() if isinstance(value, str | EncryptedString) else value


def _has_environment(pod: dict) -> bool:
    spec = pod.get("spec") or {}
    containers = [*(spec.get("containers") or []), *(spec.get("initContainers") or [])]
    return any("value" in variable for container in containers for variable in container.get("env") or [])


class FilterModule:
    """Registers the filters with Ansible."""

    def filters(self):
        return {
            "casemate_manifest_files": casemate_manifest_files,
            "casemate_left_over_files": casemate_left_over_files,
        }
