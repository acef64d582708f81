"""Where in the inventory's YAML files each variable is written.

Ansible merges an inventory into values and reads leniently: of two equal keys it keeps the last, and it skips with a
warning what it cannot use. This module reads the same files as syntax trees: it gives file and line of every
definition, and finds what Ansible would pass over in silence.
"""

import difflib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from appliance.node.pods.documents import TrapError, refuse_traps

_SUFFIXES = (".yml", ".yaml", ".json")
_IGNORED_SUFFIXES = (".pyc", ".pyo", ".swp", ".bak", "~", ".rpm", ".md", ".txt", ".rst", ".orig", ".cfg", ".retry")
_VARIABLE_FOLDERS = {"group_vars": "group", "host_vars": "host"}
_SECTIONS = ("hosts", "vars", "children")
_GROUP_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_GUIDE = "docs/inventory.md"
_MOST_VALUES = 10**6

KeyPath = tuple[str | int, ...]


@dataclass(frozen=True)
class Problem:
    """One thing wrong with an inventory.

    `file` is the source as it was named (empty when none can be named), `line` counts from 1 or is None, `key` is the
    dotted path in that file, `value` the offending value as shown to people (secrets masked, may be empty),
    `expected` what would be right, `documented` the file to read.
    """

    file: str
    line: int | None
    key: str
    value: str
    message: str
    expected: str = ""
    documented: str = _GUIDE

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.file, self.line) if part)
        head = ": ".join(part for part in (place, self.key, self.message) if part)
        lines = [head]
        if self.value:
            lines.append(f"    value: {self.value}")
        if self.expected:
            lines.append(f"    expected: {self.expected}")
        lines.append(f"    documented in: {self.documented}")
        return "\n".join(lines)


@dataclass(frozen=True)
class Definition:
    """One variable as written in one file: `prefix` is the dotted path of the mapping that holds it."""

    file: str
    prefix: KeyPath
    name: str
    line: int
    node: yaml.Node

    def locate(self, path: KeyPath) -> tuple[int, str]:
        """Line and dotted key of the part of this variable at `path` (as near as the file has it)."""
        line, node = self.line, self.node
        for step in path:
            found = _child(node, step)
            if found is None:
                break
            line, node = found
        return line, dotted((*self.prefix, self.name, *path))


def dotted(path: Iterable[str | int]) -> str:
    """`("pods", 0, "spec")` as `pods[0].spec`."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else (f".{step}" if text else step)
    return text


def suggestion(word: str, known: Iterable[str]) -> str:
    """`did you mean X?` for a near miss, else nothing."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.7)
    return f"did you mean {close[0]}?" if close else ""


def _child(node: yaml.Node, step: str | int) -> tuple[int, yaml.Node] | None:
    if isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
        return _line(node.value[step]), node.value[step]
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == step:
                return _line(key), value
    return None


def _line(node: yaml.Node) -> int:
    return node.start_mark.line + 1


def _is_null(node: yaml.Node) -> bool:
    return node.tag == "tag:yaml.org,2002:null"


@dataclass
class Positions:
    """The syntax trees of all YAML files of an inventory.

    `problems` holds what is wrong with the files as such; with `broken` set Ansible cannot make sense of them, and
    looking at the merged variables would only add noise. `vaulted` names the files that are encrypted as a whole, into
    which this module cannot look.
    """

    problems: list[Problem] = field(default_factory=list)
    broken: bool = False
    vaulted: list[str] = field(default_factory=list)
    _variables: dict[tuple[str, str, str], Definition] = field(default_factory=dict)  # by scope, owner, name
    _hosts: dict[str, Definition] = field(default_factory=dict)

    @classmethod
    def read(cls, sources: Iterable[Path]) -> "Positions":
        """Read every YAML file that Ansible would read for `sources` (files or directories)."""
        positions = cls()
        for source in sources:
            for file in _inventory_files(source):
                positions._read_inventory(file)
            folder = source if source.is_dir() else source.parent
            for name, kind in _VARIABLE_FOLDERS.items():
                for owner, file in _variable_files(folder / name):
                    positions._read_variables(kind, owner, file)
        return positions

    def find(self, host: str, groups: Iterable[str], variable: str) -> Definition | None:
        """The definition of `variable` that wins for `host`, whose groups are given weakest first."""
        ranked = [("host_file", host), ("host", host)]
        strongest_first = list(reversed(list(groups)))
        ranked += [("group_file", group) for group in strongest_first]
        ranked += [("group", group) for group in strongest_first]
        for scope, owner in ranked:
            if found := self._variables.get((scope, owner, variable)):
                return found
        return None

    def host(self, name: str) -> Definition | None:
        """Where the host itself is declared first."""
        return self._hosts.get(name)

    def _problem(self, file: Path, line: int | None, path: KeyPath, message: str, **more: str) -> None:
        self.problems.append(Problem(str(file), line, dotted(path), more.pop("value", ""), message, **more))

    def _compose(self, file: Path) -> yaml.Node | None:
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            self._problem(file, None, (), f"cannot be read: {error}", expected="a readable UTF-8 file")
            self.broken = True
            return None
        if text.startswith("$ANSIBLE_VAULT"):
            self.vaulted.append(str(file))
            return None
        try:
            root = yaml.compose(text, Loader=yaml.CSafeLoader)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line = mark.line + 1 if mark else None
            message = f"is not YAML: {error.problem or error.context}"
            expected = "YAML indented with spaces"
            if line and "\t" in (text.splitlines() or [""])[min(line, len(text.splitlines())) - 1]:
                message = "is not YAML: there is a tab in this line; YAML is indented with spaces only"
            self._problem(file, line, (), message, expected=expected)
            self.broken = True
            return None
        except yaml.YAMLError as error:
            self._problem(file, None, (), f"is not YAML: {' '.join(str(error).split())}")
            self.broken = True
            return None
        if root is not None:
            self._duplicates(file, root, (), set())
            try:
                refuse_traps(root, _MOST_VALUES)
            except TrapError as trap:
                self._problem(file, trap.line, (), str(trap), expected="a file whose aliases say less, once expanded")
                self.broken = True
                return None
        return root

    def _duplicates(self, file: Path, node: yaml.Node, path: KeyPath, visited: set[int]) -> None:
        if id(node) in visited:  # an alias: the anchor's node again
            return
        visited.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            for number, item in enumerate(node.value):
                self._duplicates(file, item, (*path, number), visited)
        if not isinstance(node, yaml.MappingNode):
            return
        seen: dict[str, int] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self._problem(file, _line(key), path, "has a list or a mapping as a key", expected="a word as the key")
                self.broken = True
                continue
            if key.value in seen and key.value != "<<":
                self._problem(
                    file,
                    _line(key),
                    (*path, key.value),
                    f"is written twice (first in line {seen[key.value]}); only the last would count",
                    expected="each key once in a mapping",
                )
            seen.setdefault(key.value, _line(key))
            self._duplicates(file, value, (*path, key.value), visited)

    def _read_variables(self, kind: str, owner: str, file: Path) -> None:
        root = self._compose(file)
        if isinstance(root, yaml.MappingNode):
            self._define(f"{kind}_file", [owner], file, (), root)
        elif root is not None and not _is_null(root):
            self._problem(file, _line(root), (), "is not a mapping", expected="lines of the form variable: value")
            self.broken = True

    def _read_inventory(self, file: Path) -> None:
        root = self._compose(file)
        if root is None or _is_null(root):
            if not self.broken and str(file) not in self.vaulted:
                self._problem(file, None, (), "is empty", expected="a group `appliance` with `hosts`")
                self.broken = True
            return
        if not isinstance(root, yaml.MappingNode):
            self._problem(file, _line(root), (), "is not a mapping of groups", expected="appliance: at the left margin")
            self.broken = True
            return
        if any(key.value == "plugin" for key, _ in root.value):
            return
        for key, node in root.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in _SECTIONS:
                self._problem(
                    file,
                    _line(key),
                    (key.value,),
                    f"`{key.value}` is at the left margin, outside any group",
                    expected=f"a group above it: appliance: with {key.value}: below it",
                )
                self.broken = True
                continue
            self._read_group(file, key, node, ())

    def _read_group(self, file: Path, key: yaml.Node, node: yaml.Node, above: KeyPath) -> None:
        group, path = key.value, (*above, key.value)
        if not _GROUP_NAME.fullmatch(group):
            self._problem(
                file, _line(key), path, f"{group!r} is no name for a group", expected="letters, digits and _ only"
            )
        if _is_null(node):
            return
        if not isinstance(node, yaml.MappingNode):
            self._wrong_section(file, key, path, node, "hosts:, vars: or children: below the group's name")
            return
        for section, content in node.value:
            here = (*path, section.value)
            if section.value not in _SECTIONS:
                hint = suggestion(section.value, _SECTIONS)
                self._problem(
                    file,
                    _line(section),
                    here,
                    "is not a part of a group" + (f"; {hint}" if hint else ""),
                    expected="hosts, vars or children; a group's variables go below vars",
                )
            elif section.value == "hosts":
                self._read_hosts(file, section, content, here)
            elif _is_null(content):
                continue
            elif not isinstance(content, yaml.MappingNode):
                self._wrong_section(file, section, here, content, "a mapping: one `name: value` a line")
            elif section.value == "vars":
                self._define("group", [group], file, here, content)
            else:
                for child, child_node in content.value:
                    self._read_group(file, child, child_node, here)

    def _read_hosts(self, file: Path, section: yaml.Node, content: yaml.Node, path: KeyPath) -> None:
        if _is_null(content):
            return
        if not isinstance(content, yaml.MappingNode):
            self._wrong_section(file, section, path, content, "a mapping: one `NAME:` a line, without dashes")
            return
        for key, node in content.value:
            here = (*path, key.value)
            if key.tag != "tag:yaml.org,2002:str":
                self._problem(file, _line(key), here, "is not text", expected="the host's name in quotes")
                self.broken = True
                continue
            names = _expand(key.value)
            for name in names:
                definition = Definition(str(file), path, key.value, _line(key), node)
                self._hosts.setdefault(name, definition)
            if isinstance(node, yaml.MappingNode):
                self._define("host", names, file, here, node)
            elif not _is_null(node):
                self._wrong_section(file, key, here, node, "the host's variables as a mapping, or nothing")

    def _wrong_section(self, file: Path, key: yaml.Node, path: KeyPath, node: yaml.Node, expected: str) -> None:
        what = "a list" if isinstance(node, yaml.SequenceNode) else "a single value"
        self._problem(file, _line(key), path, f"is {what}", expected=expected)
        self.broken = True

    def _define(self, scope: str, owners: Iterable[str], file: Path, prefix: KeyPath, node: yaml.MappingNode) -> None:
        for key, value in node.value:
            for owner in owners:
                self._variables[(scope, owner, str(key.value))] = Definition(
                    str(file), prefix, str(key.value), _line(key), value
                )


def _inventory_files(source: Path) -> Iterator[Path]:
    """The YAML inventories that Ansible reads for a source; scripts and INI files have no positions for us."""
    if source.is_dir():
        for entry in sorted(source.iterdir()):
            if entry.name in _VARIABLE_FOLDERS or entry.name.startswith(".") or entry.name.endswith(_IGNORED_SUFFIXES):
                continue
            yield from _inventory_files(entry)
    elif source.suffix in _SUFFIXES:
        yield source


def _variable_files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Pairs of owner and file below a group_vars or host_vars directory."""
    if not folder.is_dir():
        return
    for entry in sorted(folder.iterdir()):
        if entry.is_dir():
            yield from ((entry.name, file) for file in sorted(entry.rglob("*")) if _is_variable_file(file))
        elif _is_variable_file(entry):
            yield entry.name.removesuffix(entry.suffix) if entry.suffix in _SUFFIXES else entry.name, entry


def _is_variable_file(file: Path) -> bool:
    return file.is_file() and not file.name.startswith(".") and file.suffix in (*_SUFFIXES, "")


def _expand(pattern: str) -> list[str]:
    """Host names of a key of `hosts`: ranges such as edge[1:3] mean what they mean to Ansible."""
    from ansible.parsing.utils.addresses import parse_address
    from ansible.plugins.inventory import detect_range, expand_hostname_range

    try:
        name, _port = parse_address(pattern, allow_ranges=True)
    except Exception:  # whatever Ansible cannot read as an address it takes as a name
        name = pattern
    name = name or pattern
    return list(expand_hostname_range(name)) if detect_range(name) else [name]
