"""Filters of role objects: where pods reach their host, and files that are to go."""

from __future__ import annotations

import ipaddress


def casemate_gateway(network: str) -> str:
    """The address that a host has in its pods' network (CIDR): the first, as CNI's bridge and host-local take it."""
    return str(next(ipaddress.ip_network(str(network)).hosts()))


def casemate_absent(files: list) -> list[dict]:
    """The entries of `casemate_files` that remove what these write."""
    return [{"dest": entry["dest"], "state": "absent"} for entry in files]


class FilterModule:
    """Registers the filters with Ansible."""

    def filters(self):
        return {"casemate_absent": casemate_absent, "casemate_gateway": casemate_gateway}
