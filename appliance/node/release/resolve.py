"""What a deploy installs on a host like this one, as exactly as apt knows it.

The host's own apt resolves it, from its own package sources, as if nothing was installed: what comes out depends on the
sources only, not on what this very host has. Nothing is written but a directory below /tmp, which goes again.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from pathlib import Path
from urllib.parse import unquote

KERNEL = re.compile(r"linux-(image|modules)-\d")
"""Of what a kernel package leads to, the packages that a guest needs."""

_URI = re.compile(r"^'(?P<url>\S+)' (?P<file>(?P<name>[^_\s]+)_\S+\.deb) (?P<size>\d+) ", re.MULTILINE)


class ResolveError(Exception):
    """apt could not say; the message has its own words."""


def platform() -> str:
    """This host's distribution, its release and architecture: debian-12/amd64."""
    lines = Path("/etc/os-release").read_text().splitlines()
    release = dict(line.split("=", 1) for line in lines if "=" in line)
    architecture = _run(["dpkg", "--print-architecture"]).strip()
    return "-".join(release[key].strip('"') for key in ("ID", "VERSION_ID") if key in release) + f"/{architecture}"


def resolve(host: list[str], guest: list[str], kernel: str) -> dict:
    """Everything that is needed to have the packages `host` on a host, and a guest made of `guest` and `kernel`.

    Returns {"platform", "asked": `host` sorted, "host": [name], "guest": [name], "kernel": [name], "packages": {name:
    {"version", "size" (bytes), "sha256", "url"}}}; `host` and `guest` with all that they need. Raises ResolveError.
    """
    with tempfile.TemporaryDirectory(prefix="casemate-resolve-") as work:
        apt = _Apt(Path(work))
        apt.update()
        found = apt.closure(host)
        userland = apt.closure(guest) if guest else {}
        kernels = {name: one for name, one in (apt.closure([kernel]) if kernel else {}).items() if KERNEL.match(name)}
        if kernel and not kernels:
            raise ResolveError(f"{kernel} leads to no kernel package")
        packages = apt.describe(found | userland | kernels)
    return {"platform": platform(), "asked": sorted(host), "host": sorted(found), "guest": sorted(userland),
            "kernel": sorted(kernels), "packages": packages}  # fmt: skip


class _Apt:
    """apt with package lists and a state of its own, in which nothing is installed."""

    def __init__(self, work: Path):
        for directory in ("lists/partial", "cache/archives/partial"):
            (work / directory).mkdir(parents=True)
        (work / "status").touch()
        state = {
            "Dir::State::lists": work / "lists", "Dir::Cache": work / "cache", "Dir::State::status": work / "status",
            "APT::Sandbox::User": "root", "Debug::NoLocking": 1, "Acquire::Languages": "none",
        }  # fmt: skip
        self._options = [word for key, value in state.items() for word in ("-o", f"{key}={value}")]

    def update(self) -> None:
        _run(["apt-get", "-q", *self._options, "-o", "APT::Update::Error-Mode=any", "update"])

    def closure(self, names: list[str]) -> dict[str, dict]:
        """These packages and all that they depend on, by name."""
        argv = ["apt-get", "-q", "-y", "--no-install-recommends", "--print-uris", *self._options, "install", *names]
        found = {match["name"]: match for match in _URI.finditer(_run(argv))}
        return {
            name: {"version": unquote(one["file"].split("_")[1]), "size": int(one["size"]), "url": one["url"]}
            for name, one in found.items()
        }

    def describe(self, packages: dict[str, dict]) -> dict[str, dict]:
        """The packages with their checksums, which apt's list of addresses has in no kept form."""
        asked = [f"{name}={one['version']}" for name, one in packages.items()]
        sums: dict[tuple[str, str], str] = {}
        for record in _run(["apt-cache", *self._options, "show", *asked]).split("\n\n"):
            fields = dict(line.split(": ", 1) for line in record.splitlines() if re.match(r"(Filename|SHA256): ", line))
            if len(fields) == 2:
                sums[Path(fields["Filename"]).name] = fields["SHA256"]
        described = {}
        for name, one in packages.items():
            file = unquote(one["url"].rpartition("/")[2])
            if file not in sums:
                raise ResolveError(f"apt knows no SHA-256 of {file}")
            described[name] = {"version": one["version"], "size": one["size"], "sha256": sums[file], "url": one["url"]}
        return described


def _run(argv: list[str]) -> str:
    environment = os.environ | {"LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env=environment, stdin=subprocess.DEVNULL)
    if done.returncode:
        words = " ".join((done.stderr or done.stdout).strip().splitlines()[-3:])
        raise ResolveError(f"{argv[0]} failed: {words}")
    return done.stdout
