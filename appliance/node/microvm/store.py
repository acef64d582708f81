"""Files that several programs read while one writes them, sparse copies, and the lock of who makes guest images."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from .settings import STATE, RuntimeFailure


def write_json(path: Path, content: dict, mode: int = 0o644) -> None:
    """Replace `path` in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.{os.getpid()}")
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w") as file:
        json.dump(content, file, indent=1)
        file.write("\n")
        os.fsync(file.fileno())
    new.replace(path)


def read_json(path: Path) -> dict | None:
    """Return the content of `path`, or None when it cannot be read or is no JSON."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def copy_sparse(source: Path, target: Path) -> None:
    """Copy a file, its holes as holes, sharing its blocks where the file system can. Raises RuntimeFailure."""
    done = subprocess.run(["cp", "--sparse=auto", "--reflink=auto", source, target], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeFailure(f"cannot copy {source}: {done.stderr.strip()}")


@contextlib.contextmanager
def making(name: str) -> Iterator[None]:
    """Hold the lock under which `name` (image, template, accelerator) is made; wait for another maker."""
    STATE.mkdir(parents=True, exist_ok=True)
    with open(STATE / f".{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
