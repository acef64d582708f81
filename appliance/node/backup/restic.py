"""Calling restic: its environment, its progress, and its errors in words that say what to do."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

from . import settings
from .settings import BackupError, Settings

# What restic says, by what it means, in the words of 0.14 and 0.18. The first that fits counts: that a repository
# cannot be reached is said in the same line as that there is none.
_MEANINGS = (
    ("network", r"connection refused|no route to host|network is unreachable|i/o timeout|no such host|dial tcp|"
     r"server misbehaving|Connection (?:refused|timed out|reset)|Could not resolve hostname|"
     r"unable to start the sftp session|ssh command exited|connection reset",
     "{repository} cannot be reached: {line}",
     "check the network and the back end; what was saved so far is used by the next run"),
    ("refused", r"Access Denied|InvalidAccessKeyId|SignatureDoesNotMatch|403 Forbidden|401 Unauthorized|"
     r"Permission denied",
     "{repository} refuses us: {line}", "check backup_environment, or the key for sftp"),
    ("password", r"wrong password or no key found", "the password is not this repository's",
     "put the one into backup_password that the first backup was made with; if it was right until now, the key in the "
     "repository is damaged"),
    ("missing", r"Is there a repository at the following location|unable to open config file|repository does not exist",
     "there is no repository at {repository}", "is the disk mounted, the address right? A new one is made by the first "
     "backup only where there never was one"),
    ("space", r"no space left on device|ENOSPC|disk quota exceeded", "there is no space left at {repository}",
     "free some, or keep fewer backups (backup_keep) and run: appliance backup prune"),
    ("locked", r"already locked (?:exclusively )?by", "another restic works on {repository}: {line}",
     "wait for it; the lock of one that is gone is removed by the next run after half an hour"),
    ("damaged", r"repository contains errors|ciphertext verification failed|invalid data returned|does not match id|"
     r"config or key .* is damaged|hash mismatch|Pack ID does not match|load\(.*\): invalid|unexpected EOF|"
     r"invalid character .* looking for|Unmarshal: ",
     "the repository at {repository} is damaged: {line}",
     "let the next backups go elsewhere (another backup_repository), then bring back from this one what still can be: "
     "appliance restore"),
)  # fmt: skip


class ResticError(BackupError):
    """restic failed: `kind` is one of _MEANINGS, "" where what it said is not known; `said` is what it printed."""

    def __init__(self, message: str, said: str, kind: str = ""):
        super().__init__(message)
        self.said, self.kind = said, kind


class Restic:
    """restic on this host's repository. Secrets reach it through files and its environment only."""

    def __init__(self, configured: Settings):
        self.settings = configured
        self.environment = os.environ | settings.environment() | {
            "RESTIC_REPOSITORY": configured.repository, "RESTIC_PASSWORD_FILE": str(settings.PASSWORD),
            "RESTIC_CACHE_DIR": str(settings.CACHE), "RESTIC_PROGRESS_FPS": "1", "LC_ALL": "C.UTF-8",
        }  # fmt: skip

    def argv(self, *words: str) -> list[str]:
        """A call of restic, with what the back end needs; secrets are in `environment` only."""
        return ["restic", *(word for option in self.settings.options for word in ("-o", option)), *words]

    def run(self, *words: str, cwd: Path | None = None, on_json: Callable[[dict], None] | None = None) -> str:
        """Run restic and return what it prints; with `on_json` each line of it that is an object goes there instead.

        A lock of a restic that is gone is taken away. Raises ResticError, with cause and cure where they are known.
        """
        try:
            return self._run(*words, cwd=cwd, on_json=on_json)
        except ResticError as error:
            if error.kind != "locked":
                raise
        self._run("unlock")  # takes away only those whose process is gone, or that are half an hour old
        return self._run(*words, cwd=cwd, on_json=on_json)

    def _run(self, *words: str, cwd: Path | None = None, on_json: Callable[[dict], None] | None = None) -> str:
        # it must not go on when we are killed: what it reads is mounted for as long as it runs
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *self.argv(*words)], cwd=cwd, env=self.environment, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        kept: list[str] = []
        errors = _Reader(process.stderr)
        for line in process.stdout:
            told = _object(line) if on_json else None
            if told is None:
                kept.append(line)
            else:
                on_json(told)
        code = process.wait()
        said = errors.text()
        if code:
            raise self._error(words[0], code, said or "".join(kept[-20:]))
        return "".join(kept)

    def snapshots(self) -> list[dict]:
        """This host's backups, oldest first."""
        told = json.loads(self.run("snapshots", "--json", "--host", self.settings.host, "--tag", "casemate") or "[]")
        return sorted(told or [], key=lambda one: one["time"])

    def _error(self, verb: str, code: int, said: str) -> ResticError:
        lines = [line for line in said.strip().splitlines() if line.strip()]
        for kind, pattern, cause, cure in _MEANINGS:
            hit = next((line for line in lines if re.search(pattern, line, re.IGNORECASE)), "")
            if hit:
                cause = cause.format(repository=shown(self.settings.repository), line=hit.strip()[:200])
                if (kind, verb) == ("space", "restore"):
                    cause, cure = "the disk is full here", "free some space in the pool, or enlarge it"
                return ResticError(f"{cause}; {cure}", said, kind)
        last = " ".join(lines[-3:])[:400] or f"it ended with {code}"
        return ResticError(f"restic {verb} failed: {last}", said)


def shown(repository: str) -> str:
    """A repository's address without the password that it may carry."""
    return re.sub(r"(://[^/@:]*):[^/@]*@", r"\1:***@", repository)


class _Reader:
    """Reads a stream to its end beside another, so that neither fills up."""

    def __init__(self, stream):
        import threading

        self._lines: list[str] = []
        self._thread = threading.Thread(target=lambda: self._lines.extend(stream), daemon=True)
        self._thread.start()

    def text(self) -> str:
        self._thread.join()
        return "".join(self._lines)


def _object(line: str) -> dict | None:
    try:
        told = json.loads(line)
    except ValueError:
        return None
    return told if isinstance(told, dict) else None
