"""The registry of checks: what a check is, what it finds, and how a set of them is run."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from appliance.node.health.host import Host
from appliance.node.health.settings import Settings

SEVERITIES = ("error", "warning", "info")


@dataclass(frozen=True)
class Finding:
    """What one check saw.

    `severity` is how much it matters when `ok` is false; `of` tells findings of one check apart; `cause` and `cure` are
    empty when `ok`, the cure being a command to run or an edit to make.
    """

    ok: bool
    evidence: str
    cause: str = ""
    cure: str = ""
    severity: str = "error"
    of: str = ""


@dataclass(frozen=True)
class Check:
    """A registered check: `entries` are the commands that run it (`preflight`, `doctor`)."""

    id: str
    entries: tuple
    look: Callable[[Host, Settings], Finding | Iterable[Finding]]

    def run(self, host: Host, settings: Settings) -> list[dict]:
        """Return the findings in the shape that `doctor -o json` has; a check that breaks is itself a finding."""
        try:
            answer = self.look(host, settings)
            findings = [answer] if isinstance(answer, Finding) else list(answer)
        except Exception as error:  # one broken check must not hide what the others found
            where = traceback.extract_tb(error.__traceback__)[-1]
            findings = [
                Finding(
                    ok=False,
                    severity="warning",
                    evidence=f"{type(error).__name__}: {error} ({where.filename}:{where.lineno})",
                    cause=f"the check {self.id} could not look",
                    cure="run it again; if it stays, report it with this evidence",
                )
            ]
        return [self._shape(finding) for finding in findings]

    def _shape(self, finding: Finding) -> dict:
        return {
            "id": f"{self.id}-{finding.of}" if finding.of else self.id,
            "severity": finding.severity,
            "ok": finding.ok,
            "evidence": finding.evidence,
            "cause": finding.cause,
            "cure": finding.cure,
        }


CHECKS: list[Check] = []


def check(id: str, *entries: str) -> Callable:
    """Register a function as the check `id` of the given entries."""

    def register(look: Callable) -> Callable:
        CHECKS.append(Check(id, entries, look))
        return look

    return register


def run(entry: str, host: Host, settings: Settings) -> list[dict]:
    """Run every check of `entry`, side by side (most of them wait for a program), in registration order."""
    chosen = [one for one in CHECKS if entry in one.entries]
    with ThreadPoolExecutor(max_workers=8) as pool:
        return [finding for findings in pool.map(lambda one: one.run(host, settings), chosen) for finding in findings]
