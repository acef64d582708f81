"""A small schema language for manifests: checks that collect every problem instead of stopping at the first.

A check is a callable `(value, path, problems)`; it appends `Problem`s and returns nothing.
"""

import difflib
import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a manifest: `path` is the key (`spec.containers[0].image`), `message` what was expected."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


Check = Callable[[Any, str, list[Problem]], None]

_SUFFIXES = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def parse_quantity(value: str | int | float) -> Decimal:
    """A Kubernetes quantity (`500m`, `64Mi`, 2) as a number. Raises ValueError."""
    match = re.fullmatch(r"([0-9.]+(?:[eE]-?[0-9]+)?)([A-Za-z]*)", str(value))
    if not match or match[2] not in {*_SUFFIXES, "m"}:
        raise ValueError(value)
    try:
        number = Decimal(match[1])
    except InvalidOperation:
        raise ValueError(value) from None
    return number / 1000 if match[2] == "m" else number * _SUFFIXES[match[2]]


def text(pattern: str = "", what: str = "text", minimum: int = 0) -> Check:
    """A string, matching `pattern` as a whole where one is given."""

    def check(value, path, problems):
        if not isinstance(value, str):
            problems.append(Problem(path, f"expected {what}, a string; got {_kind(value)}{_quote_hint(value)}"))
        elif len(value) < minimum or (pattern and not re.fullmatch(pattern, value)):
            problems.append(Problem(path, f"expected {what}; got {value!r}"))

    return check


def integer(minimum: int, maximum: int) -> Check:
    """An integer from `minimum` to `maximum`, both included."""

    def check(value, path, problems):
        if not isinstance(value, int) or isinstance(value, bool) or not minimum <= value <= maximum:
            problems.append(Problem(path, f"expected an integer from {minimum} to {maximum}; got {value!r}"))

    return check


def boolean(value, path, problems) -> None:
    """true or false."""
    if not isinstance(value, bool):
        problems.append(Problem(path, f"expected true or false; got {value!r}"))


def quantity(value, path, problems) -> None:
    """An amount such as `500m` or `64Mi`, above zero."""
    try:
        if isinstance(value, bool) or not isinstance(value, (str, int, float)) or parse_quantity(value) <= 0:
            raise ValueError
    except ValueError:
        problems.append(Problem(path, f"expected an amount above zero, such as 500m, 2 or 64Mi; got {value!r}"))


def address(value, path, problems) -> None:
    """An IPv4 or IPv6 address."""
    try:
        ipaddress.ip_address(value if isinstance(value, str) else "")
    except ValueError:
        problems.append(Problem(path, f"expected an IP address; got {value!r}"))


def one_of(*values: Any, why: str = "") -> Check:
    """Exactly one of the given values."""

    def check(value, path, problems):
        if not any(
            value is candidate or (value == candidate and type(value) is type(candidate)) for candidate in values
        ):
            choice = ", ".join(str(v) if isinstance(v, str) else repr(v).lower() for v in values)
            problems.append(Problem(path, f"expected {choice}; got {value!r}{why and '; ' + why}"))

    return check


def listing(item: Check, minimum: int = 0, unique: str = "") -> Check:
    """A list of at least `minimum` items; no two may have the same value of the key `unique`."""

    def check(value, path, problems):
        if not isinstance(value, list):
            problems.append(Problem(path, f"expected a list; got {_kind(value)}"))
            return
        if len(value) < minimum:
            problems.append(Problem(path, f"expected at least {minimum} item(s)"))
        for index, entry in enumerate(value):
            item(entry, f"{path}[{index}]", problems)
        names = [entry.get(unique) for entry in value if unique and isinstance(entry, dict)]
        for name in sorted({str(n) for n in names if n is not None and names.count(n) > 1}):
            problems.append(Problem(path, f"{unique} {name!r} is used more than once"))

    return check


def mapping(item: Check) -> Check:
    """A mapping with free keys."""

    def check(value, path, problems):
        if not isinstance(value, dict):
            problems.append(Problem(path, f"expected a mapping; got {_kind(value)}"))
            return
        for key, entry in value.items():
            if not isinstance(key, str):
                problems.append(Problem(f"{path}.{key}", f"expected a string as key; got {_kind(key)}"))
            item(entry, f"{path}.{key}", problems)

    return check


def record(fields: dict[str, Check], required: tuple[str, ...] = (), exactly_one: tuple[str, ...] = ()) -> Check:
    """A mapping with the keys of `fields` only; anything else is refused by name, never ignored."""

    def check(value, path, problems):
        if not isinstance(value, dict):
            problems.append(Problem(path, f"expected a mapping; got {_kind(value)}"))
            return
        for key, entry in value.items():
            where = f"{path}.{key}" if path else str(key)
            if key not in fields:
                near = difflib.get_close_matches(str(key), fields, n=1)
                hint = f"; did you mean {near[0]}?" if near else f"; supported here: {', '.join(sorted(fields))}"
                problems.append(Problem(where, f"not supported by Casemate's pod runner{hint}"))
            elif entry is not None:  # null means absent, as in Kubernetes
                fields[key](entry, where, problems)
        for key in required:
            if value.get(key) is None:
                problems.append(Problem(f"{path}.{key}" if path else key, "is required"))
        if exactly_one and sum(value.get(key) is not None for key in exactly_one) != 1:
            problems.append(Problem(path, f"expected exactly one of {', '.join(exactly_one)}"))

    return check


def _kind(value: Any) -> str:
    names = {dict: "a mapping", list: "a list", str: "a string", bool: "a boolean", int: "an integer"}
    return "nothing" if value is None else names.get(type(value), type(value).__name__)


def _quote_hint(value: Any) -> str:
    return f' (write "{str(value).lower()}" with quotes)' if isinstance(value, (bool, int, float)) else ""
