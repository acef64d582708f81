"""The content of the engine's images in a backup: its content store, whose files have their digests as names.

A restore makes an OCI layout of it and lets the engine import that.
"""

from __future__ import annotations

import json
import subprocess
import tomllib
from pathlib import Path

from appliance.node.images import store

from .settings import BackupError

FOLDER = "images"  # in a backup: images/blobs/sha256/HEX
_CONFIGURATION = Path("/etc/containerd/config.toml")
_STORE = "io.containerd.content.v1.content/blobs"


def known() -> list[dict]:
    """The engine's images, [{"reference", "digest"}]; none of an engine that is down, for the rest is to be saved."""
    try:
        there = store.present()
    except (store.StoreError, OSError):
        return []
    return [{"reference": name, "digest": digest} for name, digest in there.items() if not name.startswith("sha256:")]


def blobs() -> Path:
    """Where the engine has the content. Raises BackupError."""
    try:
        return Path(tomllib.loads(_CONFIGURATION.read_text())["root"]) / _STORE
    except (OSError, KeyError, tomllib.TOMLDecodeError) as error:
        raise BackupError(f"{_CONFIGURATION} does not say where the engine has its images: {error}") from None


def bring_back(layout: Path, wanted: list[dict]) -> None:
    """Import these images, [{"reference", "digest"}], from `layout`, FOLDER of a backup. Raises BackupError."""
    manifests = [_descriptor(layout, one) for one in wanted]
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": manifests}))
    with subprocess.Popen(
        ["tar", "-C", layout, "-c", "oci-layout", "index.json", "blobs"], stdout=subprocess.PIPE
    ) as tar:
        done = subprocess.run(["ctr", "--namespace", store.NAMESPACE, "images", "import", "-"], stdin=tar.stdout,
                              capture_output=True, text=True, check=False)  # fmt: skip
    if done.returncode or tar.returncode:
        raise BackupError(f"the engine does not take the images of the backup: {done.stderr.strip()[-300:]}")


def _descriptor(layout: Path, image: dict) -> dict:
    """What an OCI index says of an image that it has."""
    path = layout / "blobs" / image["digest"].replace(":", "/")
    try:
        content = path.read_bytes()
        media_type = json.loads(content)["mediaType"]
    except (OSError, ValueError, KeyError):
        raise BackupError(f"the backup has no content of image {image['reference']}") from None
    return {"mediaType": media_type, "digest": image["digest"], "size": len(content),
            "annotations": {"io.containerd.image.name": image["reference"]}}  # fmt: skip
