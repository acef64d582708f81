"""Is what came back what the backup has? Each entry of the volumes is compared with restic's list of them.

restic compares the content of what it reads with its checksums; this compares what is on the disk in the end, without
reading it once more.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from .restic import Restic
from .settings import BackupError

_TYPES = {"file": stat.S_ISREG, "dir": stat.S_ISDIR, "symlink": stat.S_ISLNK, "fifo": stat.S_ISFIFO,
          "dev": stat.S_ISBLK, "chardev": stat.S_ISCHR}  # fmt: skip
_NO_TEXT = "�"  # in JSON for a byte of a name that is no UTF-8: such an entry cannot be found by its name
_SHOWN = 3


def list_volumes(restic: Restic, snapshot: str, names: list[str], listing: Path) -> dict[str, int]:
    """Write a backup's entries below volumes/NAME into `listing`, a JSON object a line; bytes by volume."""
    sums = dict.fromkeys(names, 0)
    with open(os.open(listing, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:

        def on_json(node: dict) -> None:
            volume = node.get("path", "").removeprefix("/volumes/").partition("/")[0]
            if node.get("struct_type") != "node" or volume not in sums:
                return
            sums[volume] += node.get("size", 0)
            file.write(json.dumps({key: node.get(key, 0) for key in ("path", "type", "size", "mode", "uid", "gid")}))
            file.write("\n")

        if names:
            restic.run("ls", "--json", snapshot, *(f"/volumes/{name}" for name in names), "--recursive",
                       on_json=on_json)  # fmt: skip
    return sums


def compare(listing: Path, root: Path) -> int:
    """How many entries of `listing` were found below `root` as they are said to be. Raises BackupError."""
    count, different = 0, []
    for node in _nodes(listing):
        if _NO_TEXT in node["path"]:
            continue
        count += 1
        if trouble := _difference(node, root):
            different.append(f"{node['path']} {trouble}")
    if different:
        more = f" and {len(different) - _SHOWN} more" if len(different) > _SHOWN else ""
        raise BackupError(
            f"what was fetched is not what the backup has, nothing was replaced: {'; '.join(different[:_SHOWN])}{more};"
            " try again, and look at the pool's disk (appliance doctor)"
        )
    return count


def _difference(node: dict, root: Path) -> str:
    try:
        found = os.lstat(root / node["path"].lstrip("/"))
    except OSError as error:
        return error.strerror or "cannot be read"
    is_type = _TYPES.get(node["type"])
    if is_type and not is_type(found.st_mode):
        return f"is no {node['type']}"
    if node["type"] == "file" and found.st_size != node["size"]:
        return f"has {found.st_size} bytes, not {node['size']}"
    if (found.st_uid, found.st_gid) != (node["uid"], node["gid"]):
        return f"belongs to {found.st_uid}:{found.st_gid}, not {node['uid']}:{node['gid']}"
    wanted = node["mode"] & 0o777  # the others of Go's bits lie elsewhere
    if node["type"] != "symlink" and found.st_mode & 0o777 != wanted:
        return f"has mode {found.st_mode & 0o777:o}, not {wanted:o}"
    return ""


def _nodes(listing: Path) -> Iterator[dict]:
    with listing.open() as file:
        yield from map(json.loads, file)
