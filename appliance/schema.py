"""What an inventory may say: the options of all roles, from their argument specifications.

Ansible's own check of argument specifications runs on the host's turn in the play and converts silently (a list passes
as `str`, "9090" as `int`, "maybe" only fails later). Here the same specifications are read strictly, before any host
is touched, and `FORMATS` adds what a type cannot say.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from appliance.formats import (
    ADDRESS,
    CHECKSUM,
    CIDR,
    CIDR6,
    DEVICE,
    DNS_NAME,
    DURATION,
    ENDPOINT,
    HASH,
    IMAGE,
    INTERFACE,
    LISTEN,
    MTU,
    PATH,
    PORT,
    QUOTA,
    RELEASE,
    REMOTE,
    REMOTE_PORT,
    SIZE,
    URL,
    VOLUME,
    Format,
)
from appliance.positions import KeyPath, suggestion

# Variable (or `list[].key` inside one) to the form its value must have. An empty string is always accepted where the
# role's default is empty: it means "not given".
FORMATS: dict[str, Format] = {
    "backup_password_file": PATH,
    "edge_broker_address": ENDPOINT,
    "edge_checksum": CHECKSUM,
    "edge_cloud_address": REMOTE,
    "edge_cloud_ca_hash": HASH,
    "edge_cloud_https_port": REMOTE_PORT,
    "edge_cloud_port": REMOTE_PORT,
    "edge_metaserver_address": ENDPOINT,
    "edge_node_ip": ADDRESS,
    "edge_node_name": DNS_NAME,
    "edge_token_file": PATH,
    "edge_url": URL,
    "edge_version": RELEASE,
    "engine_bridge": INTERFACE,
    "engine_images[].host_archive": PATH,
    "engine_images[].reference": IMAGE,
    "engine_metrics_address": ENDPOINT,
    "engine_pod_cidr": CIDR,
    "engine_pod_cidr6": CIDR6,
    "engine_pod_mtu": MTU,
    "engine_root": PATH,
    "monitoring_listen_address": LISTEN,
    "monitoring_node_exporter_port": PORT,
    "monitoring_prometheus_port": PORT,
    "monitoring_retention_size": SIZE,
    "monitoring_retention_time": DURATION,
    "monitoring_scrape_interval": DURATION,
    "objects_addresses[]": ADDRESS,
    "objects_port": PORT,
    "objects_users[].name": VOLUME,
    "objects_volume": VOLUME,
    "pods_demo_port": PORT,
    "storage_device": DEVICE,
    "storage_devices[]": DEVICE,
    "storage_volumes[].name": VOLUME,
    "storage_volumes[].size": QUOTA,
}

GIVEN = object()
"""Stands for any value but an empty one."""

# Ports that are taken only where other variables have these values.
PORT_TAKEN_WITH: dict[str, dict[str, object]] = {
    "edge_broker_address": {"edge_provider": "kubeedge", "edge_broker": "mosquitto"},
    "edge_metaserver_address": {"edge_provider": "kubeedge", "edge_metaserver": True},
    "objects_port": {"objects_volume": GIVEN},
    "pods_demo_port": {"pods_demo": True},
}

# Variables that earlier releases had: name to (release that removed it, what to do instead). None is removed so far.
REMOVED: dict[str, tuple[str, str]] = {}

# The site's own variables, for its own templates; never looked at.
OWN_PREFIX = "x_"

_TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "path": (str,),
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "list": (list,),
    "dict": (dict,),
}
_TYPE_WORDS = {
    "str": "text",
    "path": "a path",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "list": "a list",
    "dict": "a mapping",
}
_SECRET_ENDINGS = ("password", "passwd", "passphrase", "token", "secret", "_pass")


class _Unknown:
    """Stands for a value that is known only later: vaulted, or a template over facts."""

    def __repr__(self) -> str:
        return "<known only on the host>"


UNKNOWN = _Unknown()


@dataclass(frozen=True)
class Finding:
    """One thing wrong with one value; `path` leads to it from the variable that holds it."""

    path: KeyPath
    value: object
    message: str
    expected: str
    secret: bool = False


@dataclass(frozen=True)
class Option:
    """One option of a role as its argument specification declares it.

    `documented` is the file, relative to the content directory, whose prose explains it; `default` is the value in
    the role's defaults (None where it has none).
    """

    name: str
    role: str
    type: str
    documented: str
    required: bool = False
    choices: tuple = ()
    no_log: bool = False
    default: object = None
    description: str = ""
    element: "Option | None" = None
    options: Mapping[str, "Option"] = field(default_factory=dict)
    format: Format | None = None


def read_options(content: Path) -> dict[str, Option]:
    """Every option of every role below `content`/roles, by name."""
    options: dict[str, Option] = {}
    for file in sorted(content.glob("roles/*/meta/argument_specs.yml")):
        role = file.parent.parent.name
        specs = yaml.load(file.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader) or {}
        defaults = read_defaults(content, role)
        for entry in specs.get("argument_specs", {}).values():
            for name, spec in (entry.get("options") or {}).items():
                # Several roles may read one variable; the one that sets its default is the one that documents it.
                if name not in options or (name in defaults and options[name].default is None):
                    options[name] = _option(name, role, spec, defaults.get(name), key=name)
    return options


def read_defaults(content: Path, role: str) -> dict[str, object]:
    """The role's defaults as written, templates and all."""
    file = content / "roles" / role / "defaults" / "main.yml"
    if not file.is_file():
        return {}
    return yaml.load(file.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader) or {}


def _option(name: str, role: str, spec: Mapping, default: object, key: str) -> Option:
    kind = spec.get("type", "str")
    nested = spec.get("options") or {}
    element = None
    if kind == "list":
        item = {"type": spec.get("elements", "raw"), "options": nested, "choices": spec.get("choices", ())}
        element = _option(name, role, item, None, key=f"{key}[]")
        nested = {}
    description = spec.get("description", "")
    return Option(
        name=name,
        role=role,
        type=kind,
        documented=f"roles/{role}/defaults/main.yml",
        required=bool(spec.get("required", False)),
        choices=tuple(spec.get("choices") or ()) if kind != "list" else (),
        no_log=bool(spec.get("no_log", False)),
        default=default if default is not None else spec.get("default"),
        description=" ".join(description) if isinstance(description, list) else str(description),
        element=element,
        options={child: _option(child, role, nested[child], None, key=f"{key}.{child}") for child in nested},
        format=FORMATS.get(key),
    )


def check(option: Option, value: object, path: KeyPath = ()) -> Iterator[Finding]:
    """Everything wrong with `value` as the value of `option`."""
    if value is UNKNOWN:
        return
    if value is None:
        if option.type != "raw" and (option.default is not None or path):
            words = _TYPE_WORDS.get(option.type, option.type)
            yield Finding(path, value, "has no value", f"{words}; remove the line to get the default")
        return
    if not _is(option.type, value):
        yield Finding(path, value, f"is {_describe(value)}", _expected_type(option.type, value), option.no_log)
        return
    if option.choices and value not in option.choices:
        hint = suggestion(str(value), map(str, option.choices))
        message = "is none of the choices" + (f"; {hint}" if hint else "")
        yield Finding(path, value, message, "one of " + ", ".join(map(str, option.choices)), option.no_log)
    elif option.format and not (value == "" and option.default == "") and not option.format.accepts(value):
        yield Finding(path, value, "has the wrong form", option.format.expected, option.no_log)
    if option.element and isinstance(value, list):
        for number, item in enumerate(value):
            yield from check(option.element, item, (*path, number))
    if option.options and isinstance(value, Mapping):
        yield from _check_nested(option, value, path)


def _check_nested(option: Option, value: Mapping, path: KeyPath) -> Iterator[Finding]:
    for key, item in value.items():
        if key in option.options:
            yield from check(option.options[key], item, (*path, key))
        else:
            hint = suggestion(str(key), option.options)
            yield Finding(
                (*path, str(key)),
                None,
                "is not known here" + (f"; {hint}" if hint else ""),
                "one of " + ", ".join(option.options),
            )
    for key, child in option.options.items():
        if child.required and key not in value:
            yield Finding(path, None, f"lacks {key}", f"{key}: {_TYPE_WORDS.get(child.type, child.type)}")


def _is(kind: str, value: object) -> bool:
    if kind not in _TYPES:
        return True
    if isinstance(value, bool) and kind != "bool":
        return False
    return isinstance(value, _TYPES[kind])


def _describe(value: object) -> str:
    if isinstance(value, str):
        return "text"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, Mapping):
        return "a mapping"
    return "a list" if isinstance(value, list) else f"a {type(value).__name__.strip('_')}"


def _expected_type(kind: str, value: object) -> str:
    words = _TYPE_WORDS[kind]
    if kind in ("int", "float", "bool") and isinstance(value, str):
        return f"{words}, without quotes"
    if kind in ("str", "path") and not isinstance(value, list | Mapping):
        return f"{words}: put it in quotes"
    return words


def is_secret_name(name: str) -> bool:
    """Whether a key of this name holds a secret itself (and not the path of a file with one)."""
    return name.lower().endswith(_SECRET_ENDINGS)


def clear_secrets(name: str, value: object, option: Option | None = None, path: KeyPath = ()) -> Iterator[KeyPath]:
    """Paths below the variable `name` where a secret is written in clear text."""
    if isinstance(value, str):
        if value and ((option is not None and option.no_log) or is_secret_name(name)):
            yield path
    elif isinstance(value, Mapping):
        nested = option.options if option else {}
        for key, item in value.items():
            inherited = option if option is not None and option.no_log else None  # all in it is secret
            yield from clear_secrets(str(key), item, nested.get(key) or inherited, (*path, str(key)))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from clear_secrets(name, item, option.element if option else None, (*path, number))
