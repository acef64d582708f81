"""Calling restic: its environment, its progress, and its errors in words that say what to do."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

from . import settings
from .settings import BackupError, Settings

# What restic says, by what it means, in the words of 0.14 and 0.18: a name, the pattern, the cause, the cure. The first
# that fits counts: with each of the first ones restic says as well that there is no repository.
_MEANINGS = (
    ("stranger", r"x509: |server gave HTTP response to HTTPS client",
     "{repository} is not known to be what it says: {line}",
     "is the address right? backup_ca takes the certificate of the authority that signed the server's, in PEM"),
    ("dialect", r"aws-chunked is not supported", "{repository} does not understand this host's restic: {line}",
     "speak https: to it (Swift before 2.35 needs that)"),
    ("refused", r"signature we calculated does not match|access key id you provided does not exist|Access Denied|"
     r"Forbidden|InvalidAccessKeyId|SignatureDoesNotMatch|Unauthorized|Permission denied \(",
     "{repository} refuses us: {line}", "check backup_environment, or the key for sftp"),
    ("network", r"connection refused|no route to host|network is unreachable|i/o timeout|no such host|dial tcp|"
     r"server misbehaving|Connection (?:refused|timed out|reset)|Could not resolve hostname|"
     r"unable to start the sftp session|ssh command exited|connection reset|: EOF$|Service Unavailable|Bad Gateway",
     "{repository} cannot be reached: {line}",
     "check the network and the back end; what was saved so far is used by the next run"),
    ("space", r"no space left on device|ENOSPC|disk quota exceeded|Insufficient Storage",
     "there is no space left at {repository}",
     "free some, or keep fewer backups (backup_keep) and run: appliance backup prune"),
    ("forbidden", r"Permission denied", "{repository} refuses us: {line}", "check who may read and write there"),
    ("password", r"wrong password or no key found", "the password is not this repository's",
     "put the one into backup_password that the first backup was made with; if it was right until now, the key in the "
     "repository is damaged"),
    ("missing", r"Is there a repository at the following location|unable to open config file|repository does not exist",
     "there is no repository at {repository}", "is the disk mounted, the address right? A new one is made by the first "
     "backup only where there never was one"),
    ("locked", r"already locked (?:exclusively )?by", "another restic works on {repository}: {line}",
     "wait for it; the lock of one that is gone is removed by the next run after half an hour"),
    ("damaged", r"repository contains errors|ciphertext verification failed|invalid data returned|does not match id|"
     r"config or key .* is damaged|hash mismatch|Pack ID does not match|load\(.*\): invalid|unexpected EOF|"
     r"invalid character .* looking for|Unmarshal: ",
     "the repository at {repository} is damaged: {line}",
     "let the next backups go elsewhere (another backup_repository), then bring back from this one what still can be: "
     "appliance restore"),
)  # fmt: skip


# What no second attempt makes better; restic 0.18 goes on trying.
_IN_VAIN = ("stranger", "refused")


class ResticError(BackupError):
    """restic failed: `kind` is one of _MEANINGS, "" where what it said is not known; `said` is what it printed."""

    def __init__(self, message: str, said: str, kind: str = ""):
        super().__init__(message)
        self.said, self.kind = said, kind


class Restic:
    """restic on this host's repository. Secrets reach it through files and its environment only."""

    def __init__(self, configured: Settings):
        self.settings = configured
        self._running: set[subprocess.Popen] = set()
        self._stopped = False
        credentials = settings.environment()
        self.environment = os.environ | credentials | {
            "RESTIC_REPOSITORY": _with_credentials(configured.repository, credentials),
            "RESTIC_PASSWORD_FILE": str(settings.PASSWORD),
            "RESTIC_CACHE_DIR": str(settings.CACHE), "RESTIC_PROGRESS_FPS": "1", "LC_ALL": "C.UTF-8",
        }  # fmt: skip

    def argv(self, *words: str) -> list[str]:
        """A call of restic, with what the back end needs; secrets are in `environment` only."""
        options = [word for option in self.settings.options for word in ("-o", option)]
        options += ["--cacert", self.settings.ca] if self.settings.ca else []
        return ["restic", *options, *words]

    def run(self, *words: str, **how) -> str:
        """Run restic and return what it prints; `how` may have these:

        `cwd`, where it runs; `on_json`, which gets each line that is an object instead; `on_retry`, which gets what
        restic says when it tries something again, as it does for a quarter of an hour. A lock of a restic that is gone
        is taken away. Raises ResticError, with cause and cure where they are known.
        """
        try:
            return self._run(*words, **how)
        except ResticError as error:
            if error.kind != "locked":
                raise
        self._run("unlock")  # takes away only those whose process is gone, or that are half an hour old
        return self._run(*words, **how)

    def _run(self, *words: str, cwd: Path | None = None, on_json: Callable[[dict], None] | None = None,
             on_retry: Callable[[str], None] | None = None) -> str:  # fmt: skip
        # it must not go on when we are killed: what it reads is mounted for as long as it runs
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *self.argv(*words)], cwd=cwd, env=self.environment, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        self._running.add(process)
        if self._stopped:
            process.terminate()
        kept: list[str] = []

        def on_error(line: str) -> None:
            if "retrying after" not in line:
                return
            if _meaning(line)[0][0] in _IN_VAIN:
                process.terminate()
            elif on_retry:
                on_retry(shown(line.strip()))

        errors = _Reader(process.stderr, on_error)
        for line in process.stdout:
            told = _object(line) if on_json else None
            if told is None:
                kept.append(line)
            else:
                on_json(told)
        code = process.wait()
        self._running.discard(process)
        said = errors.text()
        if code:
            raise self._error(words[0], code, said or "".join(kept[-20:]))
        return "".join(kept)

    def written(self) -> int:
        """Bytes that what runs in another thread has written so far."""
        told = ""
        for process in list(self._running):
            with contextlib.suppress(OSError):  # it has ended meanwhile
                told += Path(f"/proc/{process.pid}/io").read_text()
        return sum(int(line.split()[1]) for line in told.splitlines() if line.startswith("wchar:"))

    def stop(self) -> None:
        """End what runs in another thread, and what is still to begin there; its `run` raises."""
        self._stopped = True
        for process in list(self._running):
            process.terminate()

    def snapshots(self) -> list[dict]:
        """This host's backups, oldest first."""
        told = json.loads(self.run("snapshots", "--json", "--host", self.settings.host, "--tag", "casemate") or "[]")
        return sorted(told or [], key=lambda one: one["time"])

    def _error(self, verb: str, code: int, said: str) -> ResticError:
        (kind, _, cause, cure), line = _meaning(said)
        if (kind, verb) == ("space", "restore"):
            cause, cure = "the disk is full here", "free some space in the pool, or enlarge it"
        if kind:
            cause = cause.format(repository=shown(self.settings.repository), line=shown(line))
            return ResticError(f"{cause}; {cure}", said, kind)
        lines = [line for line in said.strip().splitlines() if line.strip()]
        last = shown(" ".join(lines[-3:]))[:400] or f"it ended with {code}"
        return ResticError(f"restic {verb} failed: {last}", said)


def _meaning(said: str) -> tuple[tuple[str, str, str, str], str]:
    """The one of _MEANINGS that fits what restic said, and the line that it goes by; empty texts where none does."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    for meaning in _MEANINGS:
        for line in lines:
            if re.search(meaning[1], line, re.IGNORECASE):
                return meaning, line[:200]
    return ("", "", "", ""), ""


def _with_credentials(repository: str, credentials: dict[str, str]) -> str:
    """A rest-server's address with user and password in it: restic before 0.16 knows no other way to be given them."""
    scheme, separator, rest = repository.partition("://")
    user, password = (credentials.get(f"RESTIC_REST_{name}", "") for name in ("USERNAME", "PASSWORD"))
    if not repository.startswith("rest:") or not user or "@" in rest.partition("/")[0]:
        return repository
    return f"{scheme}{separator}{quote(user, safe='')}:{quote(password, safe='')}@{rest}"


def shown(repository: str) -> str:
    """A repository's address without the password that it may carry."""
    return re.sub(r"(://[^/@:]*):[^/@]*@", r"\1:***@", repository)


class _Reader:
    """Reads a stream to its end beside another, so that neither fills up; each line is shown to `on_line`."""

    def __init__(self, stream, on_line: Callable[[str], None]):
        import threading

        self._lines: list[str] = []
        self._thread = threading.Thread(target=self._read, args=(stream, on_line), daemon=True)
        self._thread.start()

    def _read(self, stream, on_line: Callable[[str], None]) -> None:
        for line in stream:
            self._lines.append(line)
            on_line(line)

    def text(self) -> str:
        self._thread.join()
        return "".join(self._lines)


def _object(line: str) -> dict | None:
    try:
        told = json.loads(line)
    except ValueError:
        return None
    return told if isinstance(told, dict) else None
