"""Does object storage answer where it was told to, and can it still store?"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

from appliance.node.health.host import Host
from appliance.node.health.registry import Finding, check
from appliance.node.health.settings import Settings

DECLARED = "/etc/casemate/objects.json"
_VOLUMES = "/var/lib/casemate/pool/volumes"
_TIMEOUT = 5.0
# Swift stores nothing more below 5 % (roles/objects, fallocate_reserve)
_LOW_PERCENT = 10


@check("objects", "doctor")
def objects(host: Host, settings: Settings) -> Iterator[Finding]:
    """Nothing to see on a host whose inventory declares no object storage."""
    declared = read(host)
    if not declared:
        return
    for address in declared["addresses"]:
        url = f"{base_url(declared, address)}/healthcheck"
        try:
            host.ask_unverified(url, _TIMEOUT)  # whose certificate it is, clients judge
        except OSError as error:
            yield Finding(
                ok=False, of=address, evidence=f"{url}: {error}", cause="object storage does not answer there",
                cure="systemctl restart casemate-objects.socket swift-proxy; journalctl -u 'swift-*' "
                "-u 'casemate-objects*' -n 50 tells why",
            )  # fmt: skip
        else:
            yield Finding(ok=True, of=address, evidence=f"{url} answers")
    yield from _space(host, f"{_VOLUMES}/{declared['volume']}")


def read(host: Host) -> dict:
    """What role objects declared: {"volume", "addresses", "port", "tls"}; {} where it declared nothing."""
    try:
        return json.loads(host.read(DECLARED))
    except ValueError:
        return {}


def base_url(declared: dict, address: str) -> str:
    """The address that clients use."""
    shown = f"[{address}]" if ":" in address else address
    return f"{'https' if declared['tls'] else 'http'}://{shown}:{declared['port']}"


def _space(host: Host, directory: str) -> Iterator[Finding]:
    try:
        found = os.statvfs(host.path(directory))
    except OSError as error:
        yield Finding(
            ok=False, of="disk", evidence=f"{directory}: {error.strerror}", cause="the volume of the objects is gone",
            cure="is the pool's disk there? appliance deploy makes an empty volume anew; a backup brings it back",
        )  # fmt: skip
        return
    percent = 100 * found.f_bavail // max(1, found.f_blocks)
    low = percent < _LOW_PERCENT
    yield Finding(
        ok=not low, severity="warning", of="disk", evidence=f"{directory}: {percent} % free",
        cause="object storage refuses to store more below 5 %" if low else "",
        cure="remove objects, or give the pool more room" if low else "",
    )  # fmt: skip
