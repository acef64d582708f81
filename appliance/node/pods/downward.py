"""What a pod may be told of itself: the fields that fieldRef names."""

import re
from collections.abc import Mapping

from .manifest import Pod


def field(pod: Pod, path: str, known: Mapping[str, str] | None = None) -> str:
    """The value of a field; `known` has those that only the running pod has. Labels as Kubernetes writes them."""
    metadata = pod.manifest["metadata"]
    if found := re.fullmatch(r"metadata\.(labels|annotations)(?:\['(.+)'\])?", path):
        entries = metadata.get(found[1]) or {}
        if found[2]:
            return entries.get(found[2], "")
        return "\n".join(f'{key}="{_escaped(value)}"' for key, value in sorted(entries.items()))
    own = {"metadata.name": pod.name, "metadata.namespace": pod.namespace, "metadata.uid": pod.uid}
    return {**(known or {}), **own}[path]


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
