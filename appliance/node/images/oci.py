"""Writing and reading OCI image archives (a tar of an OCI image layout). Equal inputs give equal bytes."""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_CONFIG = "application/vnd.oci.image.config.v1+json"
# Not compressed: the archive stays on the host, and what zlib makes of it differs between versions.
_LAYER = "application/vnd.oci.image.layer.v1.tar"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_INDEX = "application/vnd.oci.image.index.v1+json"


class ArchiveError(Exception):
    """A file is no usable OCI archive; the message names it and says why."""


@dataclass(frozen=True)
class Entry:
    """One path of a layer: a file with `data`, a link with `target`, or else a directory. `mode` as in chmod."""

    path: str
    data: bytes | None = None
    target: str = ""
    mode: int = 0o755


@dataclass(frozen=True)
class Image:
    """What an image is made of: one layer of `entries`, and how to run it. `reference` is its full name with tag."""

    reference: str
    entries: Iterable[Entry]
    entrypoint: list[str]
    user: str = "65534:65534"
    environment: list[str] = field(default_factory=lambda: ["PATH=/bin"])
    labels: dict[str, str] = field(default_factory=dict)
    ports: list[str] = field(default_factory=list)  # such as "8080/tcp"
    stop_signal: str = ""  # such as SIGQUIT


def build(image: Image, architecture: str) -> bytes:
    """The image as an OCI archive; `architecture` is Go's name for it, such as amd64."""
    layer = _layer(image.entries)
    config: dict[str, Any] = {
        "architecture": architecture,
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": {
            "Entrypoint": image.entrypoint,
            "Env": image.environment,
            "User": image.user,
            "WorkingDir": "/",
            "Labels": image.labels,
            "ExposedPorts": {port: {} for port in image.ports},
            **({"StopSignal": image.stop_signal} if image.stop_signal else {}),
        },
        "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
        "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "casemate-images"}],
    }
    blobs: dict[str, bytes] = {}
    manifest = {
        "schemaVersion": 2,
        "mediaType": _MANIFEST,
        "config": _store(blobs, _CONFIG, _json(config)),
        "layers": [_store(blobs, _LAYER, layer)],
    }
    described = _store(blobs, _MANIFEST, _json(manifest))
    described["platform"] = {"architecture": architecture, "os": "linux"}
    described["annotations"] = {
        "io.containerd.image.name": image.reference,
        "org.opencontainers.image.ref.name": image.reference.rpartition(":")[2],
    }
    index = {"schemaVersion": 2, "mediaType": _INDEX, "manifests": [described]}
    files = {
        "oci-layout": _json({"imageLayoutVersion": "1.0.0"}),
        "index.json": _json(index),
        **{f"blobs/sha256/{digest.removeprefix('sha256:')}": data for digest, data in sorted(blobs.items())},
    }
    directories = [Entry("blobs"), Entry("blobs/sha256")]
    return _layer([*directories, *(Entry(path, data, mode=0o644) for path, data in files.items())])


def images_in(archive: Path) -> dict[str, str]:
    """The images in an OCI archive: digest by full reference. Raises ArchiveError."""
    try:
        with tarfile.open(archive) as tar:
            member = tar.extractfile("index.json")
            index = json.load(member) if member else {}
    except (OSError, tarfile.TarError, KeyError, ValueError) as error:
        raise ArchiveError(f"{archive}: not an OCI archive: {error}") from None
    found = {}
    for described in index.get("manifests", []):
        annotations = described.get("annotations") or {}
        name = annotations.get("io.containerd.image.name") or annotations.get("org.opencontainers.image.ref.name", "")
        if "/" not in name or ":" not in name.rpartition("/")[2]:
            raise ArchiveError(
                f"{archive}: its image has no full name such as localhost/app:1 (found {name!r}); "
                "write it with an annotation io.containerd.image.name"
            )
        found[name] = described["digest"]
    if not found:
        raise ArchiveError(f"{archive}: its index names no image")
    return found


def _layer(entries: Iterable[Entry]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for entry in entries:
            info = tarfile.TarInfo(entry.path)
            info.mode = entry.mode
            if entry.target:
                info.type, info.linkname, info.mode = tarfile.SYMTYPE, entry.target, 0o777
            elif entry.data is None:
                info.type = tarfile.DIRTYPE
            else:
                info.size = len(entry.data)
            tar.addfile(info, io.BytesIO(entry.data or b""))
    return buffer.getvalue()


def _store(blobs: dict[str, bytes], media_type: str, data: bytes) -> dict[str, Any]:
    digest = _digest(data)
    blobs[digest] = data
    return {"mediaType": media_type, "digest": digest, "size": len(data)}


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
