"""Kubernetes' quantities, such as 500m and 64Mi, as numbers."""

import re
from decimal import Decimal, InvalidOperation

_SUFFIXES = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def parse_quantity(value: str | int | float) -> Decimal:
    """A Kubernetes quantity (`500m`, `64Mi`, 2) as a number. Raises ValueError."""
    match = re.fullmatch(r"([0-9.]{1,30}(?:[eE]-?[0-9]{1,2})?)([A-Za-z]*)", str(value))
    if not match or match[2] not in {*_SUFFIXES, "m"}:
        raise ValueError(value)
    try:
        number = Decimal(match[1])
    except InvalidOperation:
        raise ValueError(value) from None
    number = number / 1000 if match[2] == "m" else number * _SUFFIXES[match[2]]
    if number >= 2**63:
        raise ValueError(value)
    return number
