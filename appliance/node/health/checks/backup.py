"""Is there a good backup of this host that is not too old?"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

from appliance.node.health.host import Host
from appliance.node.health.registry import Finding, check
from appliance.node.health.settings import Settings

_DECLARED, _STATUS = "/etc/casemate/backup.json", "/var/lib/casemate/backup/status.json"


@check("backup", "doctor")
def backup(host: Host, settings: Settings) -> Iterator[Finding]:
    """Nothing to see on a host whose inventory declares no backups."""
    declared = _json(host, _DECLARED)
    if not declared:
        return
    known = _json(host, _STATUS)
    last, good = known.get("last") or {}, known.get("last_good")
    if last and not last["ok"]:
        yield Finding(
            ok=False, severity="warning", of="last",
            evidence=f"the last backup, {_when(last['ended'])}, failed: {last['error']}",
            cause="see the evidence", cure="appliance backup now, once that is put right",
        )  # fmt: skip
    age = (time.time() - good["ended"]) / 3600 if good else None
    if age is None or age > declared["max_age_hours"]:
        yield Finding(
            ok=False, severity="warning", of="age",
            evidence=f"the last good backup is {age:.0f} hours old" if good else "there is no good backup yet",
            cause="none was made since, or each failed; systemctl list-timers casemate-backup.timer tells the next",
            cure="appliance backup now",
        )  # fmt: skip
    elif last["ok"]:
        yield Finding(ok=True, evidence=f"{good['id']}, {_when(good['ended'])}")


def _json(host: Host, name: str) -> dict:
    try:
        return json.loads(host.read(name))
    except ValueError:
        return {}


def _when(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(moment))
