"""What a service needs after its files were written: nothing, or to be enabled, started, restarted or reloaded.

Decided by comparing times and programs, not by who wrote the files: so a deploy that was cut off between writing a
file, or installing a package, and restarting its service is made good by the next one.
"""

from __future__ import annotations

from appliance.node.health.host import Host

TIMES = ("ActiveEnterTimestamp", "StateChangeTimestamp")
_REPLACED = " (deleted)"  # how the kernel names a running program whose file another took the place of


def needed(host: Host, wanted: list[dict], pending: list[str]) -> list[dict]:
    """For each {"unit", "restart": [files], "reload": [files]} the same unit with `action` and `reason`.

    `pending` are files that are about to be written (check mode): they count as newer than the service.
    """
    return [{"unit": one["unit"], **_action(host, one, set(pending))} for one in wanted]


def _action(host: Host, wanted: dict, pending: set[str]) -> dict:
    properties = ["LoadState", "ActiveState", "UnitFileState", "MainPID", *TIMES]
    shown = host.run(["systemctl", "show", "--timestamp=unix", f"--property={','.join(properties)}", wanted["unit"]])
    state = dict(line.split("=", 1) for line in shown.out.splitlines() if "=" in line)
    if state.get("LoadState") == "not-found":
        return {"action": "start", "reason": "not installed yet"}
    if state.get("ActiveState") not in ("active", "reloading"):
        return {"action": "start", "reason": f"is {state.get('ActiveState', 'unknown')}"}
    if is_replaced(host, state.get("MainPID", "0")):
        return {"action": "restart", "reason": "its program was replaced"}
    # A reload leaves the time of the start, but changes the state for a moment.
    for action, stamp in (("restart", "ActiveEnterTimestamp"), ("reload", "StateChangeTimestamp")):
        since = _seconds(state.get(stamp, ""))
        newer = [name for name in wanted.get(action, []) if name in pending or _written(host, name) > since]
        if newer:
            return {"action": action, "reason": f"older than {', '.join(newer)}"}
    if state.get("UnitFileState") not in ("enabled", "static", "alias"):
        return {"action": "enable", "reason": f"is {state.get('UnitFileState') or 'not enabled'}"}
    return {"action": "none", "reason": "current"}


def is_replaced(host: Host, pid: str) -> bool:
    """Whether the program that a process runs is another than the one that is installed in its place now."""
    try:
        return str(host.path(f"/proc/{pid}/exe").readlink()).endswith(_REPLACED)
    except OSError:
        return False


def _seconds(stamp: str) -> int:
    """`@1763860041` as systemctl prints it, in whole seconds."""
    return int(stamp[1:]) if stamp.startswith("@") else 0


def _written(host: Host, name: str) -> int:
    """When a file was last written, in whole seconds as systemd counts; 0 if it is missing."""
    try:
        return int(host.path(name).stat().st_mtime)
    except OSError:
        return 0
