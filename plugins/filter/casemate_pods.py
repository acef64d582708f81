"""Filters of role pods: from manifests to files."""

from __future__ import annotations

import yaml
from ansible.errors import AnsibleFilterError
from ansible.parsing.yaml.dumper import AnsibleDumper

DIRECTORY = "/etc/casemate/pods"


def casemate_manifest_files(pods: list, header: str) -> list[dict]:
    """The entries of `casemate_files` that write each manifest below `header`, a comment."""
    files = []
    for pod in pods:
        try:
            name = pod["metadata"]["name"]
        except (KeyError, TypeError):
            raise AnsibleFilterError("pods: an item has no metadata.name; each is a Kubernetes Pod manifest") from None
        text = yaml.dump(pod, Dumper=AnsibleDumper, default_flow_style=False, sort_keys=False, allow_unicode=True)
        # a manifest's environment may hold secrets: only root reads it, and no diff shows it
        files.append(
            {
                "dest": f"{DIRECTORY}/{name}.yaml",
                "content": f"{header}\n{text}",
                "mode": "0600",
                "no_log": _has_environment(pod),
            }
        )
    return files


def casemate_left_over_files(paths: list, pods: list) -> list[dict]:
    """The entries of `casemate_files` that remove those of `paths` whose pod is no longer in `pods`."""
    wanted = {entry["dest"] for entry in casemate_manifest_files(pods, "")}
    return [{"dest": str(path), "state": "absent"} for path in paths if path not in wanted]


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
