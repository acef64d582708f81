"""The documents that declare what moves: pods, ConfigMaps and Secrets, as files of this host."""

from __future__ import annotations

import shutil
from pathlib import Path

from appliance.node.backup import contents
from appliance.node.pods.documents import SUFFIXES

from . import streams

KINDS = ("configmaps", "secrets", "pods")  # what is named comes before who names it
_HEADER = "# Written by Casemate"  # role pods knows its own by it, and would remove what the inventory does not name


def find(kind: str, name: str) -> Path | None:
    """The file of this host that declares an object."""
    if kind == "pods":
        pod = contents.catalog()[0].get(name)
        return Path(pod.source) if pod else None
    return next((path for suffix in SUFFIXES if (path := contents.FOLDERS[kind] / f"{name}{suffix}").is_file()), None)


def text(path: Path) -> str:
    """What a document says, without the line by which a deploy would take it for its own."""
    return "".join(line for line in path.read_text("utf-8").splitlines(keepends=True) if not line.startswith(_HEADER))


def place(kind: str, name: str) -> Path:
    """Where a document goes on a host that has none of that name."""
    return contents.FOLDERS[kind] / f"{name}.yaml"


def write(kind: str, name: str, content: str) -> None:
    """Put a document where its kind is declared; a Secret for root alone, whatever the directory's mode."""
    target = place(kind, name)
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = target.with_name(f".{name}.new")
    new.touch(mode=0o600)
    new.write_text(content, "utf-8")
    new.replace(target)


def put_away(path: Path) -> str:
    """Take a document from where it declares something; where it is kept, "" where it was away already."""
    if not path.exists():
        return ""
    kept = streams.kept_place(f"{path.parent.name}-{path.name}")
    shutil.copy2(path, kept)
    if path.parent.name == "secrets":
        kept.chmod(0o600)
    path.unlink()
    return str(kept)
