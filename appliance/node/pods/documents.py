"""Reading one Kubernetes document from a YAML or JSON file, whoever wrote it, and checking it.

A file that was found right is remembered by its hash in /run/casemate, so that it is checked once in the lifetime of a
release and a boot: not by each of fifty runners, one a pod, that read it when they start.
"""

import contextlib
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from . import state

SUFFIXES = (".yaml", ".yml", ".json")
CHECKED = Path("/run/casemate/checked")
MOST_BYTES = 1 << 20  # of a file; Kubernetes' own limit is about the same
MOST_VALUES = 50_000  # of a document, aliases expanded

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a document: `path` is the key (`spec.containers[0].image`), `message` what was expected."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class ManifestError(Exception):
    """A file that holds no usable document: `source` is the file, `problems` all that is wrong, one line each."""

    def __init__(self, source: str | Path, problems: list[str]):
        self.source, self.problems = str(source), problems
        shown = self.source if self.source.isprintable() else repr(self.source)
        super().__init__("\n".join(f"{shown}: {problem}" for problem in problems))


def load(
    path: Path, kind: str, check: Callable[[Any], list[Problem]], checked: Path = CHECKED
) -> tuple[dict[str, Any], str]:
    """The document of a file and the SHA-256 of its bytes; `check` says what is wrong with a document of this `kind`.

    Raises ManifestError; FileNotFoundError where there is no such file.
    """
    data = _bytes(path)
    digest = hashlib.sha256(data).hexdigest()
    document = parse(data, path)
    mark = hashlib.sha256(f"{kind} {state.RELEASE} {path.suffix} {digest}".encode()).hexdigest()
    if not _is_marked(mark, checked):
        if problems := check(document):
            raise ManifestError(path, [str(problem) for problem in problems])
        _mark(mark, checked)
    return document, digest


def parse(data: bytes, source: str | Path) -> Any:
    """The one document in a file's bytes. Raises ManifestError for what is no text, no YAML, or more than one."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ManifestError(source, [f"is not UTF-8 text: {error.reason} at byte {error.start}"]) from None
    try:
        if str(source).endswith(".json"):
            return json.loads(text, object_pairs_hook=_no_twins)
        return _yaml(text)
    except TrapError as trap:
        raise ManifestError(source, [f"line {trap.line}: {trap}"]) from None
    except _Refused as refusal:
        raise ManifestError(source, [str(refusal)]) from None
    except json.JSONDecodeError as error:
        raise ManifestError(source, [f"is not JSON: {error}"]) from None
    except yaml.YAMLError as error:
        raise ManifestError(source, [f"is not YAML: {_told(error, text)}"]) from None
    except RecursionError:
        raise ManifestError(source, ["is nested too deeply for a Kubernetes document"]) from None
    except ValueError as error:  # a number of thousands of digits, an impossible date
        raise ManifestError(source, [f"has a value that cannot be read: {error}"]) from None


class TrapError(Exception):
    """YAML that would mislead its reader; `line` counts from 1."""

    def __init__(self, node: yaml.Node, message: str):
        self.line = node.start_mark.line + 1
        super().__init__(message)


class _Refused(Exception):
    pass


def _bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ManifestError(path, [f"cannot be read: {error.strerror}"]) from None
    if len(data) > MOST_BYTES:
        raise ManifestError(path, [f"is larger than {MOST_BYTES >> 20} MiB, the most that a Kubernetes object may be"])
    return data


def _yaml(text: str) -> Any:
    loader = _Loader(text)
    try:
        found = []
        while loader.check_node():
            node = loader.get_node()
            if node.tag != "tag:yaml.org,2002:null":  # what an empty document between two --- is
                found.append(node)
        if len(found) != 1:
            raise _Refused(f"expected one document in a file; found {len(found)}")
        refuse_traps(found[0])
        _refuse_twins(found[0])
        return loader.construct_document(found[0])
    finally:
        loader.dispose()


def refuse_traps(root: yaml.Node, most: int = MOST_VALUES) -> None:
    """Raise TrapError for an alias of what it is part of, and for aliases that expand to more than `most` values."""
    sizes: dict[int, int] = {}
    unfinished: set[int] = set()

    def size(node: yaml.Node) -> int:
        if id(node) in sizes:
            return sizes[id(node)]
        if id(node) in unfinished:
            raise TrapError(node, "an alias refers to what it is part of")
        unfinished.add(id(node))
        total = 1
        if isinstance(node, yaml.MappingNode):
            total += sum(size(key) + size(value) for key, value in node.value)
        elif isinstance(node, yaml.SequenceNode):
            total += sum(size(item) for item in node.value)
        if total > most:
            raise TrapError(node, f"has more than {most} values once its aliases are expanded")
        unfinished.discard(id(node))
        sizes[id(node)] = total
        return total

    size(root)


def _refuse_twins(root: yaml.Node) -> None:
    """Raise TrapError for a key that is written twice, of which YAML's own reader keeps the last."""
    if isinstance(root, yaml.SequenceNode):
        for item in root.value:
            _refuse_twins(item)
    if not isinstance(root, yaml.MappingNode):
        return
    seen: dict[str, int] = {}
    for key, value in root.value:
        if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
            if key.value in seen:
                raise TrapError(key, f"key {key.value!r} is written twice, first in line {seen[key.value]}")
            seen[key.value] = key.start_mark.line + 1
        _refuse_twins(value)


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) < len(pairs):
        keys = [key for key, _ in pairs]
        twin = next(key for key in keys if keys.count(key) > 1)
        raise _Refused(f"key {twin!r} is written twice")
    return document


def _told(error: yaml.YAMLError, text: str) -> str:
    """YAML's complaint on one line, and what it means where a tab is to blame."""
    mark = getattr(error, "problem_mark", None)
    lines = text.splitlines()
    if mark and mark.line < len(lines) and "\t" in lines[mark.line]:
        return f"line {mark.line + 1} has a tab in it; YAML is indented with spaces only"
    if mark and getattr(error, "problem", None):
        return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"
    return " ".join(str(error).split())


def _is_marked(mark: str, checked: Path) -> bool:
    try:
        return mark in checked.read_text().split()
    except OSError:
        return False


def _mark(mark: str, checked: Path) -> None:
    with contextlib.suppress(OSError):  # not on a host of ours, or not root: then it is checked each time
        checked.touch(mode=0o600)
        with checked.open("a") as file:
            file.write(f"{mark}\n")
