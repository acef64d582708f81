"""The bundle: one file with everything that a lock names, so that a deploy needs no network.

A tar that any tar can read, and that says of every bit whether it is right. Its members, in this order:

    casemate-bundle.json      manifest: lock, release, the key's fingerprint, and size and SHA-256 of each file below
    appliance.lock            the lock itself
    key.asc                   the public key of the site that built it
    apt/PLATFORM/...          an apt repository a platform: its packages, Packages, Release, InRelease
    artifacts/..., images/... artifacts, and images as OCI layouts packed alike
    casemate-bundle.json.sig  the key's signature of the manifest
    SHA256                    of all bytes before this member

The same lock and key give the same bytes: no time, no owner, no order but that of names goes in.
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from email.utils import formatdate
from pathlib import Path
from typing import BinaryIO, NamedTuple

from debian.debfile import DebFile

from appliance import lock as locks
from appliance import signing
from appliance.download import Wanted
from appliance.errors import CasemateError

VERSION = 1
MANIFEST, SIGNATURE, LOCK, KEY, FOOTER = (
    "casemate-bundle.json", "casemate-bundle.json.sig", "appliance.lock", "key.asc", "SHA256",
)  # fmt: skip
_BLOCK = 1 << 20
_RECORD = 512
_END = b"\0" * (2 * _RECORD)
_HEX = 64


class BundleError(CasemateError):
    """The file is no bundle that can be used; `kind` is truncated, damaged, forged, unknown or other."""

    def __init__(self, message: str, *, kind: str, place: str = "", cure: str = "") -> None:
        super().__init__(message, place=place, cure=cure)
        self.kind = kind


class File(NamedTuple):
    """One file to be packed: its bytes, or where they are."""

    name: str
    content: bytes | Path

    @property
    def size(self) -> int:
        return len(self.content) if isinstance(self.content, bytes) else self.content.stat().st_size

    def open(self) -> BinaryIO:
        return io.BytesIO(self.content) if isinstance(self.content, bytes) else self.content.open("rb")


class Entry(NamedTuple):
    """One file of a bundle: where its bytes are in it."""

    name: str
    size: int
    sha256: str
    offset: int


def downloads(lock: Mapping) -> list[Wanted]:
    """The packages and artifacts of a lock, as files to be had."""
    packages = [
        Wanted(f"{name} {one['version']}", one["url"], f"sha256:{one['sha256']}", one["size"])
        for platform in lock["platforms"].values()
        for name, one in platform["packages"].items()
    ]
    artifacts = [
        Wanted(name, one["url"], one["checksum"], one["size"])
        for name, one in lock["artifacts"].items()
        if not one["url"].startswith("file:")
    ]
    return list({one.checksum: one for one in packages + artifacts}.values())


def build(lock: Mapping, images: Mapping[str, Path], output: Path, report: Callable[[str], None]) -> str:
    """Write the bundle of a lock whose downloads are there; `images` are OCI layouts packed as tars, by reference.

    Returns the fingerprint of the key that signed it.
    """
    with signing.SiteKey() as key:
        files = [File(LOCK, locks.dump(lock).encode()), File(KEY, key.public())]
        for platform in lock["platforms"]:
            report(f"apt repository for {platform}")
            files += _repository(lock, platform, key)
        by_name = {one.name: one for one in downloads(lock)}
        files += [File(f"artifacts/{name}", by_name[name].path) for name in sorted(lock["artifacts"])]
        files += [File(image_file(lock, reference), path) for reference, path in sorted(images.items())]
        report("sums and signature")
        manifest = _manifest(lock, key.fingerprint, files)
        new = output.with_name(f".{output.name}.new")
        report(f"writing {output}")
        try:
            with new.open("wb") as target:
                _write(target, [File(MANIFEST, manifest), *files, File(SIGNATURE, key.sign(manifest))])
            new.replace(output)
        except OSError as error:
            raise CasemateError(f"the bundle cannot be written: {error.strerror}", place=str(output)) from None
        finally:
            new.unlink(missing_ok=True)
        return key.fingerprint


def image_file(lock: Mapping, reference: str) -> str:
    """The name of an image's file in a bundle."""
    return f"images/{lock['images'][reference].removeprefix('sha256:')[:24]}.tar"


def package_file(platform: str, name: str, package: Mapping) -> str:
    """The name of a package's file in a bundle."""
    version = package["version"].replace(":", "%3a")
    return f"{_place(platform)}/{name}_{version}.deb"


def _place(platform: str) -> str:
    return f"apt/{platform.replace('/', '-')}"


def _repository(lock: Mapping, platform: str, key: signing.SiteKey) -> Iterator[File]:
    """A flat repository of a platform's packages, as apt reads it."""
    place, records = _place(platform), []
    packages = lock["platforms"][platform]["packages"]
    for name, one in sorted(packages.items()):
        path = Wanted(name, one["url"], f"sha256:{one['sha256']}", one["size"]).path
        file = package_file(platform, name, one)
        control = DebFile(path).control.get_content("control").decode().rstrip("\n")
        records.append(f"{control}\nFilename: ./{Path(file).name}\nSize: {one['size']}\nSHA256: {one['sha256']}\n")
        yield File(file, path)
    index = "\n".join(records).encode()
    release = (
        f"Origin: Casemate\nLabel: Casemate {lock['id']}\nSuite: {lock['id']}\n"
        f"Date: {formatdate(key.made, usegmt=True)}\nArchitectures: {platform.partition('/')[2]}\n"
        f"SHA256:\n {hashlib.sha256(index).hexdigest()} {len(index)} Packages\n"
    ).encode()
    yield File(f"{place}/Packages", index)
    yield File(f"{place}/Release", release)
    yield File(f"{place}/InRelease", key.sign_clear(release))


def _manifest(lock: Mapping, fingerprint: str, files: list[File]) -> bytes:
    entries = []
    for file in files:
        with file.open() as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        entries.append({"name": file.name, "size": file.size, "sha256": digest})
    body = {
        "casemate_bundle": VERSION, "lock": lock["id"], "release": lock["release"], "key": fingerprint,
        "files": entries,
    }  # fmt: skip
    return (json.dumps(body, indent=1) + "\n").encode()


def _write(target: BinaryIO, files: list[File]) -> None:
    digest = hashlib.sha256()

    def put(data: bytes) -> None:
        digest.update(data)
        target.write(data)

    for file in files:
        put(_header(file.name, file.size))
        with file.open() as stream:
            while block := stream.read(_BLOCK):
                put(block)
        put(_padding(file.size))
    target.write(_tail(digest.hexdigest()))


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.USTAR_FORMAT)


def _padding(size: int) -> bytes:
    return b"\0" * (-size % _RECORD)


def _tail(digest: str) -> bytes:
    """The last member and the end of the archive."""
    return _header(FOOTER, _HEX) + digest.encode() + _padding(_HEX) + _END


class Bundle:
    """A bundle on disk whose every bit was looked at. Its files are read in place."""

    def __init__(self, path: Path, manifest: Mapping, entries: Mapping[str, Entry]):
        self.path = path
        self.manifest = manifest
        self.entries = entries
        self.lock = locks.parse(self.read(LOCK).decode(), f"{path}: {LOCK}")

    @classmethod
    def trusting(cls, path: Path) -> "Bundle":
        """A bundle that was looked at before, or whose files are each compared with something else afterwards."""
        with path.open("rb") as stream:
            _, manifest, entries, _ = _table(path, stream, path.stat().st_size, whole=False)
        return cls(path, manifest, entries)

    def read(self, name: str) -> bytes:
        """One file's bytes."""
        target = io.BytesIO()
        self.copy(name, target)
        return target.getvalue()

    def copy(self, name: str, target: BinaryIO) -> None:
        """Write one file's bytes. Raises BundleError where there is none of this name."""
        if name not in self.entries:
            raise BundleError(f"the bundle has no {name}", kind="other", place=str(self.path))
        entry = self.entries[name]
        with self.path.open("rb") as stream:
            for block in _blocks(stream, entry.offset, entry.offset + entry.size):
                target.write(block)

    def pack(self, names: Mapping[str, str], target: BinaryIO) -> None:
        """Write a tar of some of the files: by their names in it, their names in the bundle."""
        with self.path.open("rb") as stream, tarfile.open(fileobj=target, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for name, source in sorted(names.items()):
                entry = self.entries[source]
                stream.seek(entry.offset)
                info = tarfile.TarInfo(name)
                info.size = entry.size
                tar.addfile(info, stream)


def verify(path: Path, keys: Mapping[str, bytes], on_bytes: Callable[[int], None] = lambda count: None) -> Bundle:
    """Look at every bit of a bundle; `keys` are the public keys that are believed, by fingerprint.

    Raises BundleError saying whether it is cut short, damaged, forged or of an unknown signer.
    """
    try:
        with path.open("rb") as stream:
            return _verify(path, stream, keys, on_bytes)
    except OSError as error:
        raise BundleError(f"the bundle cannot be read: {error.strerror}", kind="other", place=str(path)) from None


def table(path: Path) -> tuple[Mapping, list[Entry]]:
    """What a bundle says it holds; nothing is compared. Raises BundleError."""
    try:
        with path.open("rb") as stream:
            _, manifest, entries, _ = _table(path, stream, path.stat().st_size, whole=False)
            return manifest, list(entries.values())
    except OSError as error:
        raise BundleError(f"the bundle cannot be read: {error.strerror}", kind="other", place=str(path)) from None


def read_key(path: Path) -> bytes:
    """The public key that a bundle carries, which says nothing yet of whether to believe it. Raises BundleError."""
    _, entries = table(path)
    entry = next((entry for entry in entries if entry.name == KEY), None)
    with path.open("rb") as stream:
        data = b"".join(_blocks(stream, entry.offset, entry.offset + entry.size)) if entry else b""
    if not entry or hashlib.sha256(data).hexdigest() != entry.sha256:
        raise _damaged(path, f"{KEY} is not what was packed")
    return data


def _verify(path: Path, stream: BinaryIO, keys: Mapping[str, bytes], on_bytes: Callable[[int], None]) -> Bundle:
    size = path.stat().st_size
    tail = len(_tail("0" * _HEX))
    stream.seek(max(size - tail, 0))
    ending = stream.read()
    footer = ending[_RECORD : _RECORD + _HEX].decode("latin-1")
    whole = ending == _tail(footer)
    raw, manifest, entries, end = _table(path, stream, size, whole)
    least = end + 2 * _RECORD + tail  # with a signature of one record
    if not whole and size < least:
        raise _truncated(path, size, least)
    digest, wrong = hashlib.sha256(), []
    for entry, blocks in _walk(stream, entries.values(), size - tail):
        own = hashlib.sha256()
        for block in blocks:
            digest.update(block)
            own.update(block)
            on_bytes(len(block))
        if entry and own.hexdigest() != entry.sha256:
            wrong.append(entry.name)
    if not whole or digest.hexdigest() != footer:
        raise _damaged(
            path, f"{wrong[0]} is not what was packed" if wrong else "the sum at its end is not that of the file"
        )
    if wrong:
        raise _forged(path, f"{wrong[0]} is not what the manifest says")
    _check_signature(path, manifest, raw, _signature(path, stream, end), keys)
    bundle = Bundle(path, manifest, entries)
    _check_lock(bundle)
    return bundle


def _table(path: Path, stream: BinaryIO, size: int, whole: bool) -> tuple[bytes, Mapping, dict[str, Entry], int]:
    """The manifest, raw and read, its files and where the last of them ends."""
    stream.seek(0)
    header = stream.read(_RECORD)
    try:
        info = tarfile.TarInfo.frombuf(header, "utf-8", "strict")
    except tarfile.HeaderError:
        info = None
    if info is None or info.name != MANIFEST:
        if whole:
            raise _damaged(path, "its first member is not its manifest")
        raise BundleError("this is no bundle of Casemate's", kind="other", place=str(path))
    if size < _RECORD + info.size:
        raise _truncated(path, size, _RECORD + info.size)
    raw = stream.read(info.size)
    try:
        manifest = json.loads(raw)
        entries, offset = {}, _RECORD + info.size + len(_padding(info.size))
        for one in manifest["files"]:
            entries[one["name"]] = Entry(one["name"], int(one["size"]), str(one["sha256"]), offset + _RECORD)
            offset += _RECORD + one["size"] + len(_padding(one["size"]))
        if manifest["casemate_bundle"] != VERSION or not isinstance(manifest["key"], str):
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError):
        raise _damaged(path, "its manifest cannot be read") from None
    return raw, manifest, entries, offset


def _walk(stream: BinaryIO, entries: Iterable[Entry], end: int) -> Iterator[tuple[Entry | None, Iterator[bytes]]]:
    """The bytes up to `end` in parts: those of each file, and (None) those between."""
    at = 0
    for entry in entries:
        yield None, _blocks(stream, at, min(entry.offset, end))
        yield entry, _blocks(stream, entry.offset, min(entry.offset + entry.size, end))
        at = entry.offset + entry.size
    yield None, _blocks(stream, at, end)


def _blocks(stream: BinaryIO, start: int, end: int) -> Iterator[bytes]:
    stream.seek(start)
    while start < end and (block := stream.read(min(_BLOCK, end - start))):
        start += len(block)
        yield block


def _signature(path: Path, stream: BinaryIO, at: int) -> bytes:
    """The signature, whose member is at this place."""
    stream.seek(at)
    try:
        info = tarfile.TarInfo.frombuf(stream.read(_RECORD), "utf-8", "strict")
    except tarfile.HeaderError:
        info = None
    if info is None or info.name != SIGNATURE:
        raise _forged(path, "it has no signature")
    return stream.read(info.size)


def _check_signature(path: Path, manifest: Mapping, raw: bytes, signature: bytes, keys: Mapping[str, bytes]) -> None:
    fingerprint = manifest["key"]
    if fingerprint not in keys:
        raise BundleError(
            f"the bundle is whole, but was built by a site that is not believed here: key {fingerprint}",
            kind="unknown", place=str(path),
            cure=f"compare this with what the site says its key is; then: appliance bundle verify {path} --believe "
                 f"{fingerprint}",
        )  # fmt: skip
    if not signing.is_signed_by(keys[fingerprint], raw, signature):
        raise _forged(path, f"its signature is not one of key {fingerprint}")


def _check_lock(bundle: Bundle) -> None:
    """Everything that the lock names is there, as the lock has it."""
    if bundle.lock["id"] != bundle.manifest["lock"]:
        raise _forged(bundle.path, "its lock is another than the manifest says")
    wanted = {
        package_file(platform, name, one): one["sha256"]
        for platform, part in bundle.lock["platforms"].items()
        for name, one in part["packages"].items()
    }
    wanted |= {image_file(bundle.lock, reference): None for reference in bundle.lock["images"]}
    wanted |= {f"artifacts/{name}": None for name in bundle.lock["artifacts"]}
    for name, digest in wanted.items():
        if name not in bundle.entries or digest not in (None, bundle.entries[name].sha256):
            raise _forged(bundle.path, f"{name} is not what the lock says")


def _truncated(path: Path, size: int, end: int) -> BundleError:
    message = f"the bundle is cut short: it has {size} bytes of at least {end}"
    return BundleError(message, kind="truncated", place=str(path), cure="copy or download it again")


def _damaged(path: Path, what: str) -> BundleError:
    message = f"the bundle is damaged: {what}"
    return BundleError(message, kind="damaged", place=str(path), cure="copy or download it again")


def _forged(path: Path, what: str) -> BundleError:
    message = f"the bundle is forged: {what}, although its sums are right"
    return BundleError(message, kind="forged", place=str(path), cure="ask who built it; do not use it")
