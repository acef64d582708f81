"""The lock: exactly what a deploy installs, as a file that a person can read and compare.

Its shape is `SCHEMA`; `id` is drawn from everything else in it, so that equal locks have equal names and a changed one
is noticed. Packages are kept per platform (`debian-12/amd64`), resolved by the hosts' own apt: `selections` are what
the inventory's hosts ask for, each with all that it needs; `guest` and `kernel` are what guests are made of.
"""

import base64
import hashlib
import json
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import jsonschema
import yaml

from appliance import __version__
from appliance.archive import node_archive
from appliance.errors import CasemateError, UsageError

VERSION = 1
HEADER = """\
# Exactly what `appliance deploy --lock` installs. Made by `appliance lock`: make it again rather than edit it.
"""
_DOCUMENTED = "docs/releases.md"
_TEXT = {"type": "string", "minLength": 1}
_NAMES = {"type": "array", "items": _TEXT}
_SHA256 = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
_SIZE = {"type": "integer", "minimum": 0}


def _record(**fields: dict) -> dict:
    """The schema of a mapping that has these keys and no others."""
    return {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}


def _by_name(value: dict) -> dict:
    return {"type": "object", "additionalProperties": value}


SCHEMA = _record(
    casemate_lock={"const": VERSION},
    id={"type": "string", "pattern": "^[0-9a-f]{12}$"},
    release=_TEXT,
    node=_SHA256,
    releases=_by_name(
        _record(
            min=_TEXT, max=_TEXT, denied={"type": "array", "items": _record(release=_TEXT, reason=_TEXT, way=_TEXT)}
        )
    ),
    platforms=_by_name(
        _record(
            selections={"type": "array", "items": _record(asked=_NAMES, packages=_NAMES)},
            guest=_NAMES,
            kernel=_NAMES,
            packages=_by_name(_record(version=_TEXT, size=_SIZE, sha256=_SHA256, url=_TEXT)),
        )
    ),
    artifacts=_by_name(_record(version=_TEXT, url=_TEXT, checksum=_TEXT, size=_SIZE)),
    images=_by_name({"type": "string", "pattern": "^sha256:[0-9a-f]{64}$"}),
)


def make(answers: Iterable[Mapping], digests: Mapping[str, str]) -> dict:
    """The lock of what hosts answered, and of images' digests by reference.

    `answers` are {"name", "platform", "asked", "host", "guest", "kernel", "packages", "artifacts", ...}, see
    appliance/node/release/resolve.py. Raises CasemateError where two hosts of a platform know different versions.
    """
    platforms: dict[str, dict] = {}
    artifacts: dict[str, dict] = {}
    told: dict[tuple[str, str], str] = {}
    for answer in answers:
        platform = platforms.setdefault(
            answer["platform"], {"selections": {}, "guest": set(), "kernel": set(), "packages": {}}
        )
        platform["selections"][tuple(answer["asked"])] = answer["host"]
        for kind in ("guest", "kernel"):
            platform[kind] |= set(answer[kind])
        for name, package in answer["packages"].items():
            other = platform["packages"].setdefault(name, package)
            first = told.setdefault((answer["platform"], name), answer["name"])
            if other["sha256"] != package["sha256"]:
                raise CasemateError(
                    f"two hosts know different packages {name}: {first} has {other['version']} "
                    f"({other['sha256'][:12]}), {answer['name']} has {package['version']} ({package['sha256'][:12]})",
                    cure="give both the same package sources, or lock them apart with --limit",
                )
        for item in answer["artifacts"]:
            artifacts[f"{item['name']}-{item['version']}"] = {
                key: item[key] for key in ("version", "url", "checksum", "size")
            }
    body = {
        "release": __version__,
        "node": node_archive()["sha256"],
        "releases": yaml.safe_load(Path(__file__).with_name("releases.yml").read_text()),
        "platforms": {
            name: {
                "selections": [{"asked": list(a), "packages": p} for a, p in sorted(one["selections"].items())],
                "guest": sorted(one["guest"]),
                "kernel": sorted(one["kernel"]),
                "packages": dict(sorted(one["packages"].items())),
            }
            for name, one in sorted(platforms.items())
        },
        "artifacts": dict(sorted(artifacts.items())),
        "images": dict(sorted(digests.items())),
    }
    return {"casemate_lock": VERSION, "id": identity(body), **body}


def identity(lock: Mapping) -> str:
    """Twelve digits drawn from everything in the lock but its `id`, which is the same for the same content."""
    body = {key: value for key, value in lock.items() if key not in ("id", "casemate_lock")}
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:12]


def dump(lock: Mapping) -> str:
    """The file's text: the same for the same lock."""
    return HEADER + yaml.safe_dump(dict(lock), sort_keys=False, width=1000, allow_unicode=True)


def read(path: Path) -> dict:
    """The lock in a file. Raises UsageError where it cannot be read, is no lock, or was changed by hand."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"the lock cannot be read: {error}", place=str(path), cure="make one: appliance lock"
        ) from None
    return parse(text, str(path))


def parse(text: str, place: str) -> dict:
    """The lock in a text that came from `place`. Raises UsageError."""
    try:
        lock = yaml.load(text, Loader=yaml.CSafeLoader)
    except yaml.YAMLError as error:
        raise UsageError(f"the lock is no YAML: {error}", place=place, cure="make it again: appliance lock") from None
    error = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(SCHEMA).iter_errors(lock))
    if error is not None:
        where = ".".join(map(str, error.absolute_path)) or "the file"
        raise UsageError(f"{where}: {error.message[:200]}", place=place, cure=f"make the lock again; see {_DOCUMENTED}")
    if identity(lock) != lock["id"]:
        raise UsageError(
            f"the lock's id is {lock['id']}, but its content has {identity(lock)}: it was changed after it was made",
            place=place,
            cure="put the file back as it was, or make it again: appliance lock",
        )
    return lock


def for_platform(lock: Mapping, platform: str) -> dict:
    """What a host of this platform needs of a lock: without the others' packages. Raises CasemateError."""
    if platform not in lock["platforms"]:
        raise CasemateError(
            f"lock {lock['id']} has nothing for {platform}, only for {', '.join(lock['platforms']) or 'no platform'}",
            cure="make the lock again, with the host in the inventory: appliance lock",
        )
    kept = {key: lock[key] for key in ("id", "release", "node", "releases", "artifacts", "images")}
    return kept | {"platform": platform} | lock["platforms"][platform]


def pack(part: Mapping) -> str:
    """What `for_platform` gives as one short word, which `casemate-release` reads.

    A worker of ansible-core's whose result does not fit a pipe (64 KiB) hangs for ever when its run is killed.
    """
    return base64.b64encode(zlib.compress(json.dumps(part).encode(), 9)).decode()


def architectures(lock: Mapping) -> list[str]:
    """The architectures that a lock was made for, as packages and images name them."""
    return sorted({platform.partition("/")[2] for platform in lock["platforms"]})


def differences(old: Mapping, new: Mapping) -> list[dict]:
    """What the second lock has otherwise: [{"platform", "kind", "name", "from", "to"}], None where it is missing."""
    found = []

    def compare(platform: str, kind: str, before: Mapping, after: Mapping, key: str = "") -> None:
        for name in sorted(before.keys() | after.keys()):
            one, other = before.get(name), after.get(name)
            if one != other:
                values = [value[key] if key and value else value for value in (one, other)]
                found.append({"platform": platform, "kind": kind, "name": name, "from": values[0], "to": values[1]})

    for platform in sorted(old["platforms"].keys() | new["platforms"].keys()):
        sides = [lock["platforms"].get(platform, {}).get("packages", {}) for lock in (old, new)]
        compare(platform, "package", *sides, key="version")
    compare("", "artifact", old["artifacts"], new["artifacts"], key="version")
    compare("", "image", old["images"], new["images"])
    for kind in ("release", "node"):
        compare("", kind, {kind: old[kind]}, {kind: new[kind]})
    return found
