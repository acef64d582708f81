"""Checks documents against Kubernetes' published schema, narrowed by the table of what the runner does (fields.py).

jsonschema judges; here is only what it cannot know: a few rules of our own, and how to tell a person what is wrong.
Runners, of which a host has one a pod, do without this module: they find their manifests checked.
"""

import datetime
import difflib
import functools
import ipaddress
import json
from collections.abc import Iterable, Iterator
from importlib import resources
from typing import Any

import jsonschema

from . import fields
from .documents import Problem
from .quantity import parse_quantity

VERSION = "1.32"  # of the published schema
GUIDE = "docs/pods.md"


def check(document: Any, kind: str) -> list[Problem]:
    """All problems of a document that is to be a `kind` (Pod, ConfigMap, Secret), each once, in order of their keys."""
    try:
        bare = without_nulls(document)
        problems = dict.fromkeys(_hostile(bare))
        if not problems:
            errors = _validator(kind).iter_errors(bare)
            for error in sorted(errors, key=lambda e: [str(step).zfill(6) for step in e.absolute_path]):
                problems |= dict.fromkeys(_explain(error))
        return list(problems)
    except RecursionError:
        return [Problem("", "is nested too deeply for a Kubernetes document")]


def without_nulls(value: Any) -> Any:
    """A document without its keys of value null, which mean absent, as in Kubernetes."""
    if isinstance(value, dict):
        return {key: without_nulls(entry) for key, entry in value.items() if entry is not None}
    return [without_nulls(entry) for entry in value] if isinstance(value, list) else value


def dotted(path: Iterable[str | int]) -> str:
    """`("spec", "containers", 0)` as `spec.containers[0]`."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else (f".{step}" if text else str(step))
    return text


@functools.cache
def published() -> dict[str, Any]:
    """Kubernetes' own types by name."""
    return json.loads((resources.files(__package__) / "kubernetes.json").read_text("utf-8"))


@functools.cache
def _narrowed(kind: str) -> dict[str, Any]:
    """The JSON Schema of a published type, narrowed to what the runner does; without references."""
    schema = dict(published()[kind])
    rules = fields.SUPPORTED.get(kind, {})
    if "properties" in schema:
        schema["properties"] = {
            name: _property(entry, rules[name]) if name in rules else {"unsupported": f"{kind}.{name}"}
            for name, entry in schema["properties"].items()
        }
    return _merged(schema, rules.get("", {}))


def _property(schema: dict[str, Any], rule: fields.Rule) -> dict[str, Any]:
    if "$ref" in schema:
        return {"allOf": [_narrowed(schema["$ref"]), rule]} if rule else _narrowed(schema["$ref"])
    schema = dict(schema)
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            schema[key] = _property(schema[key], {})
    return _merged(schema, rule)


def _merged(schema: dict[str, Any], rule: fields.Rule) -> dict[str, Any]:
    both = {**schema, **rule}
    if "required" in schema and "required" in rule:
        both["required"] = sorted({*schema["required"], *rule["required"]})
    if "items" in schema and "items" in rule:
        both["items"] = _merged(schema["items"], rule["items"])
    return both


@functools.cache
def _validator(kind: str):
    ours = {
        "unsupported": _no_unsupported,
        "address": _address,
        "amount": _amount,
        "keys": _keys,
        "uniqueBy": _unique_by,
    }
    return jsonschema.validators.extend(jsonschema.Draft202012Validator, ours)(_narrowed(kind))


def _error(message: str):
    return jsonschema.ValidationError(message)


def _no_unsupported(_validator, name: str, _value, _schema) -> Iterator:
    kind = name.partition(".")[0]
    way_out = fields.INSTEAD.get(name) or (fields.VOLUME_INSTEAD if kind == "Volume" else "take it out")
    yield _error(f"is a field of Kubernetes that is not supported by Casemate's pod runner; instead: {way_out}")


def _address(_validator, _rule, value, _schema) -> Iterator:
    if not isinstance(value, str):
        return  # which the type tells
    try:
        ipaddress.ip_address("" if "%" in value else value)
    except ValueError:
        yield _error(f"expected an IP address; got {_shown(value)}")


def _amount(_validator, _rule, value, _schema) -> Iterator:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return  # which the type tells
    try:
        if parse_quantity(value) <= 0:
            raise ValueError
    except ValueError:
        yield _error(f"expected an amount above zero, such as 500m, 2 or 64Mi; got {_shown(value)}")


def _keys(_validator, known: list[str], value, _schema) -> Iterator:
    for key in value if isinstance(value, dict) else ():
        if key not in known:
            error = _error(
                f"{key!r} is not supported by Casemate's pod runner, which limits {' and '.join(known)}; "
                + ("emptyDir with medium: Memory has a sizeLimit" if key == "ephemeral-storage" else "take it out")
            )
            error.path.append(key)
            yield error


def _unique_by(_validator, key: str, value, _schema) -> Iterator:
    names = [entry.get(key) for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []
    for name in sorted({str(n) for n in names if isinstance(n, str) and names.count(n) > 1}):
        yield _error(f"{key} {name!r} is used more than once")


def _explain(error) -> Iterator[Problem]:
    """What one of jsonschema's errors means for a person."""
    path, schema, value = list(error.absolute_path), error.schema, error.instance
    here = dotted(path)
    rule, wanted = error.validator, error.validator_value
    if rule == "additionalProperties":
        known = schema["properties"]
        for key in value:
            if key not in known:
                yield Problem(dotted([*path, key]), f"is no field of Kubernetes {VERSION}{_near(key, known)}")
    elif rule == "required":
        for key in wanted:
            if key not in value:
                yield Problem(dotted([*path, key]), "is required")
    elif rule == "type":
        title = schema.get("title", "")
        kinds = " or ".join(_KINDS[kind] for kind in ([wanted] if isinstance(wanted, str) else wanted))
        hint = f' (write "{str(value).lower()}" with quotes)' if wanted == "string" and _is_scalar(value) else ""
        comma = f"{title}, " if title else ""
        yield Problem(here, f"expected {comma}{kinds}; got {_kind(value)}{hint}")
    elif rule == "enum":
        why = f"; {schema['why']}" if "why" in schema else ""
        yield Problem(here, f"expected {_choice(wanted)}; got {_shown(value)}{why}")
    elif rule == "minItems":
        yield Problem(here, f"expected at least {wanted} item{'s' if wanted > 1 else ''}")
    elif rule == "maxProperties":
        yield Problem(here, "expected nothing in it; it is the cluster's to fill")
    elif rule in ("minimum", "maximum"):
        title = schema.get("title") or f"a number from {schema['minimum']} to {schema['maximum']}"
        yield Problem(here, f"expected {title}; got {_shown(value)}")
    elif rule == "pattern":
        yield Problem(here, f"expected {schema['title']}; got {_shown(value)}")
    elif rule == "oneOf":
        if not any("unsupported" in schema["properties"].get(key, ()) for key in value):  # which is told by itself
            yield Problem(here, f"expected {schema['title']}")
    else:  # our own rules tell it in words
        yield Problem(here, error.message)


_KINDS = {
    "object": "a mapping", "array": "a list", "string": "a string", "boolean": "true or false",
    "integer": "an integer", "number": "a number",
}  # fmt: skip


_NAMES = (
    (dict, "a mapping"), (list, "a list"), (str, "a string"), (bool, "a boolean"), (int, "an integer"),
    (float, "a number"), (datetime.date, "a date"), (bytes, "binary data"),
)  # fmt: skip


def _kind(value: Any) -> str:
    if value is None:
        return "nothing"
    name = next((name for kind, name in _NAMES if isinstance(value, kind)), type(value).__name__)
    return f"{name}, {_shown(value)}" if isinstance(value, bool | int | float) else name


def _is_scalar(value: Any) -> bool:
    return value is not None and not isinstance(value, dict | list)


def _shown(value: Any) -> str:
    """A value as it is written, on one line and not too long."""
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


def _choice(values: list) -> str:
    return ", ".join(("nothing" if v == "" else v) if isinstance(v, str) else _shown(v) for v in values)


def _near(key: Any, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(str(key), list(known), n=1)
    return f"; did you mean {near[0]}?" if near else f"; here it has {', '.join(sorted(known))}"


def _hostile(value: Any, path: tuple = ()) -> Iterator[Problem]:
    """What no field may hold: keys that are no text, text that no program can be given."""
    if isinstance(value, dict):
        for key, entry in value.items():
            if not isinstance(key, str):
                yield Problem(dotted([*path, str(key)]), f"expected a string as key; got {_kind(key)}")
                continue
            yield from _text(key, (*path, key))
            yield from _hostile(entry, (*path, key))
    elif isinstance(value, list):
        for number, entry in enumerate(value):
            yield from _hostile(entry, (*path, number))
    elif isinstance(value, str):
        yield from _text(value, path)


def _text(value: str, path: tuple) -> Iterator[Problem]:
    if "\0" in value:
        yield Problem(dotted(path).replace("\0", "\\0"), "has a null character in it")
    try:
        value.encode()
    except UnicodeEncodeError:
        where = dotted(path).encode("ascii", "backslashreplace").decode()
        yield Problem(where, "has half of a surrogate pair in it, which is no character")
