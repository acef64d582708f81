"""Did pods come here whose former host may still have them?"""

from __future__ import annotations

import json
from collections.abc import Iterator

from appliance.node.health.host import Host
from appliance.node.health.registry import Finding, check
from appliance.node.health.settings import Settings

_ARRIVED = "/var/lib/casemate/migrate/arrived"  # see appliance/node/migrate/records.py


@check("migration", "doctor")
def migration(host: Host, settings: Settings) -> Iterator[Finding]:
    """Nothing to see where each migration came to its end."""
    for path in sorted(host.path(_ARRIVED).glob("*.json")):
        try:
            known = json.loads(path.read_text())
        except (OSError, ValueError):
            continue
        pods = ", ".join(known["pods"])
        yield Finding(
            ok=False, severity="warning", of=pods,
            evidence=f"{pods} came from {known['from']}, and {known['from']} was never heard to have let go",
            cause="the migration was cut off in its last moment: both hosts may run them",
            cure=f"the same command again: appliance migrate --from {known['from']} --to this host, "
                 f"{' '.join(f'--pod {pod}' for pod in known['pods'])}",
        )  # fmt: skip
