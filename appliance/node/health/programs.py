"""What the appliance's own programs answer; a program that is not there answers None."""

from __future__ import annotations

import json
import re
from typing import Any

from appliance.node.health.host import Host
from appliance.node.health.settings import Settings


class ProgramError(Exception):
    """A program of ours is there but failed or answered nonsense."""


def release(host: Host) -> dict | None:
    """/etc/casemate/release.json, or None before the first deploy (or where it is unreadable)."""
    try:
        given = json.loads(host.read("/etc/casemate/release.json"))
    except ValueError:
        return None
    return given if isinstance(given, dict) else None


def pods(host: Host, settings: Settings) -> list[dict] | None:
    """Every pod that the engine knows, as `casemate-pod list` tells it; None without that program."""
    return _ask(host, settings, ["casemate-pod", "list", "-o", "json"])


def manifests(host: Host, settings: Settings) -> list[dict] | None:
    """{"file", "problems"} of every manifest of the host that cannot be run; None without the pod runner."""
    return _ask(host, settings, ["casemate-pod", "check", "-o", "json"])


def microvm(host: Host, settings: Settings) -> dict | None:
    """`casemate-microvm status`; None without that program."""
    return _ask(host, settings, ["casemate-microvm", "status"])


def sandbox(host: Host, settings: Settings, sandbox_id: str) -> dict | None:
    """`casemate-microvm sandbox-info`: what the guest of one pod says of itself."""
    return _ask(host, settings, ["casemate-microvm", "sandbox-info", sandbox_id])


def unit(host: Host, name: str) -> dict[str, str]:
    """LoadState, ActiveState, SubState and Result of a systemd unit; {} without systemd."""
    shown = host.run(["systemctl", "show", "--property=LoadState,ActiveState,SubState,Result", name])
    return dict(line.split("=", 1) for line in shown.out.splitlines() if "=" in line)


def engine_version(host: Host, settings: Settings) -> tuple[str, str]:
    """Version of the *running* containerd, and "" ; or "" and what went wrong."""
    asked = host.run(["ctr", "--address", settings.engine_socket, "--timeout", "5s", "version"])
    server = re.search(r"^Server:\s*\n\s*Version:\s*(\S+)", asked.out, re.MULTILINE)
    return (server.group(1), "") if asked.code == 0 and server else ("", asked.message)


def _ask(host: Host, settings: Settings, command: list[str]) -> Any | None:
    """Run one of our programs and read its JSON; raises ProgramError."""
    program = f"{settings.bin}/{command[0]}"
    if not host.path(program).exists():
        return None
    asked = host.run([str(host.path(program)), *command[1:]], timeout=20)
    words = " ".join(command)
    if asked.code != 0:
        raise ProgramError(f"{words}: {asked.message}")
    try:
        return json.loads(asked.out)
    except ValueError as error:
        raise ProgramError(f"{words}: answered no JSON: {error}") from error
