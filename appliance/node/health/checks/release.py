"""Is this host at the release that was meant for it?"""

from __future__ import annotations

import time

from appliance.node.health.host import Host
from appliance.node.health.registry import Finding, check
from appliance.node.health.settings import Settings


@check("release-change", "doctor")
def change(host: Host, settings: Settings) -> Finding:
    """The last change of release came to its end."""
    from appliance.node.release import transaction  # preflight, which has no use for it, travels without

    if (found := transaction.current()) is not None:
        since = time.strftime("%H:%M:%S", time.localtime(found.since))
        return Finding(
            ok=False, severity="warning",
            evidence=f"a change to lock {found.to} is {found.phase} since {since}",
            cause="an upgrade or a rollback is under way, or its run is gone and the host is about to go back",
            cure="wait a minute; journalctl -u casemate-guard -n 50 tells what it does",
        )  # fmt: skip
    last = transaction.outcome()
    if last.get("outcome") == "rolled back":
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(last["ended"]))
        return Finding(
            ok=False, severity="warning",
            evidence=f"the change to lock {last['to']} was rolled back at {when}: {last['reason']}",
            cause="the host was not as well with that release as before, or its run was gone",
            cure="see to the reason, then run the upgrade again; journalctl -u casemate-guard tells more",
        )  # fmt: skip
    return Finding(ok=True, evidence="none was rolled back")


@check("drift", "doctor")
def drift(host: Host, settings: Settings) -> Finding:
    """What is installed is what the lock says, where there is one."""
    from appliance.node.release import locked, transaction

    lock = transaction.released().get("lock")
    if not lock:
        return Finding(ok=True, evidence="no lock: packages are as the host's sources had them")
    try:
        release = locked.load(lock)
        asked = locked.asked(release)
        different = locked.look(asked, release.versions(asked))
    except locked.LockError as error:
        return Finding(ok=False, severity="warning", evidence=str(error), cause="the lock is not whole on this host",
                       cure="appliance deploy --lock FILE, with the lock that was deployed")  # fmt: skip
    missing = [f"{name} {version} is missing" for name, version in different["install"].items()]
    other = [f"{name} is {here}, not {meant}" for name, (here, meant) in different["change"].items()]
    if missing or other:
        return Finding(
            ok=False, severity="warning", evidence="; ".join(missing + other),
            cause=f"packages were changed after lock {lock} was deployed, by an admin or by unattended upgrades",
            cure="appliance deploy --lock FILE brings them back; appliance lock makes a lock with what is newer",
        )  # fmt: skip
    return Finding(ok=True, evidence=f"all packages are as lock {lock} says")
