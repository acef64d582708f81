"""Prints the types of a Kubernetes Pod, ConfigMap and Secret, as Kubernetes publishes them, for the pod runner.

usage: python scripts/pod_schema.py > appliance/node/pods/kubernetes.json

They come from the package kubernetes-validate (one of the `check` extra), which carries Kubernetes' published schemas:
names, types, required fields and formats, here without their descriptions. A test compares the file with the package.
"""

import json
from importlib import resources
from typing import Any

# the release whose Pods KubeEdge's EdgeCore 1.23 runs
VERSION = "1.32"
ROOTS = ("Pod", "ConfigMap", "Secret")
FORMATS = {
    "int32": {"minimum": -(2**31), "maximum": 2**31 - 1},
    "int64": {"minimum": -(2**63), "maximum": 2**63 - 1},
}


def types() -> dict[str, Any]:
    """JSON Schemas by short type name; a reference is {"$ref": name}."""
    files = resources.files("kubernetes_validate") / f"kubernetes-json-schema/v{VERSION}.0-local-strict"
    published = json.loads((files / "_definitions.json").read_text("utf-8"))["$defs"]
    by_name = {f"io.k8s.api.core.v1.{name}": name for name in ROOTS}
    found: dict[str, Any] = {}
    while waiting := [full for full, name in by_name.items() if name not in found]:
        for full in waiting:
            found[by_name[full]] = _reduced(published[full], by_name)
    return dict(sorted(found.items()))


def _reduced(schema: dict[str, Any], by_name: dict[str, str]) -> dict[str, Any]:
    """A schema's facts: no texts, no null (it means absent and is taken out before), choices of types as one list."""
    if "$ref" in schema:
        full = schema["$ref"].rpartition("/")[2]
        return {"$ref": by_name.setdefault(full, full.rpartition(".")[2])}
    kept: dict[str, Any] = {}
    kinds = [schema, *schema.get("oneOf", [])]
    listed = [kind for one in kinds for kind in _as_list(one.get("type", [])) if kind != "null"]
    if listed:
        kept["type"] = listed[0] if len(listed) == 1 else listed
    kept |= FORMATS.get(schema.get("format", ""), {})
    for key in ("enum", "required"):
        if key in schema:
            kept[key] = schema[key]
    if "properties" in schema:
        # what a cluster says of a Pod is nobody's to declare
        names = {key: value for key, value in schema["properties"].items() if key != "status"}
        kept["properties"] = {key: _reduced(value, by_name) for key, value in sorted(names.items())}
        if "status" in schema["properties"]:
            kept["properties"]["status"] = {"type": "object", "maxProperties": 0}
    if "items" in schema:
        kept["items"] = _reduced(schema["items"], by_name)
    if "additionalProperties" in schema:
        more = schema["additionalProperties"]
        kept["additionalProperties"] = _reduced(more, by_name) if isinstance(more, dict) else more
    return kept


def _as_list(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def text() -> str:
    """The file's content: one type a line, so that a diff can be read."""
    lines = [f"{json.dumps(name)}: {json.dumps(schema)}" for name, schema in types().items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


if __name__ == "__main__":
    print(text(), end="")
