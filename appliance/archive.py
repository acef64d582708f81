"""The node programs packed for travel: one deterministic zip that Python can run and a host can unpack."""

import contextlib
import hashlib
import io
import os
import time
import zipfile
from pathlib import Path

from appliance import __version__

# any fixed moment: equal sources must give equal bytes
EPOCH = (2020, 1, 1, 0, 0, 0)

MAIN = '''\
"""casemate-node.pyz PROGRAM ARGUMENTS: run a node program from its archive, or `install` them all."""

import sys

from appliance.node.entry import main

sys.exit(main(sys.argv[1:]))
'''


KEPT_S = 7 * 24 * 3600


def node_archive() -> dict:
    """Pack `appliance/node` beside this file. Returns {"path", "id", "sha256", "version"}.

    The file is kept in the user's cache under its digest, and goes when it was not used for a week; packing takes a
    few milliseconds.
    """
    package = Path(__file__).resolve().parent
    sources = [package / "__init__.py", *sorted(f for f in (package / "node").rglob("*") if _travels(f))]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        _add(archive, "__main__.py", MAIN.encode(), 0o644)
        for source in sources:
            mode = 0o755 if os.access(source, os.X_OK) else 0o644
            _add(archive, str(source.relative_to(package.parent)), source.read_bytes(), mode)
    data = buffer.getvalue()
    digest = hashlib.sha256(data).hexdigest()
    directory = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "casemate"
    path = directory / f"casemate-node-{digest[:12]}.pyz"
    with contextlib.suppress(FileNotFoundError):
        os.utime(path)
    if not path.exists():
        directory.mkdir(parents=True, exist_ok=True)
        new = path.with_suffix(f".{os.getpid()}")
        new.write_bytes(data)
        new.replace(path)
        for old in directory.glob("casemate-node-*"):
            if old.stat().st_mtime < time.time() - KEPT_S:
                old.unlink(missing_ok=True)
    return {"path": str(path), "id": digest[:12], "sha256": digest, "version": __version__}


def _travels(path: Path) -> bool:
    return path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc"


def _add(archive: zipfile.ZipFile, name: str, data: bytes, mode: int) -> None:
    info = zipfile.ZipInfo(name, EPOCH)
    info.external_attr = (0o100000 | mode) << 16
    info.compress_type = zipfile.ZIP_DEFLATED
    archive.writestr(info, data)
