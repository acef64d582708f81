"""The bundle: the same bytes for the same lock, and no bit of it can change unnoticed."""

import hashlib
import io
import random
import subprocess
import tarfile

import pytest

from appliance import bundle, download, lock, signing
from tests.unit.test_lock import answer

CONTROL = (
    "Package: {0}\nVersion: 1.0-1\nArchitecture: amd64\nMaintainer: x <x@localhost>\nDescription: made by a test\n"
)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A user of their own, with a site key; gpg wants a short path."""
    place = tmp_path_factory.mktemp("b")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(place / "c"))
        patch.setenv("XDG_CACHE_HOME", str(place / "h"))
        yield place


@pytest.fixture(scope="module")
def made(home):
    """A lock whose packages, real ones, are downloaded."""
    told = answer()
    for name in told["packages"]:
        tree = home / name
        (tree / "DEBIAN").mkdir(parents=True)
        (tree / "DEBIAN/control").write_text(CONTROL.format(name))
        (tree / "file").write_bytes(random.Random(name).randbytes(3000))
        subprocess.run(
            ["dpkg-deb", "--build", "--root-owner-group", tree, f"{tree}.deb"], check=True, capture_output=True
        )
        data = (home / f"{name}.deb").read_bytes()
        told["packages"][name] = {
            "version": "1.0-1", "size": len(data), "sha256": hashlib.sha256(data).hexdigest(), "url": f"file://{tree}.deb",
        }  # fmt: skip
    found = lock.make([told], {})
    download.fetch_all(bundle.downloads(found))
    return found


@pytest.fixture(scope="module")
def packed(home, made):
    bundle.build(made, {}, home / "one.bundle", print)
    return home / "one.bundle"


def test_built_twice_it_is_the_same(home, made, packed):
    bundle.build(made, {}, home / "two.bundle", print)
    assert packed.read_bytes() == (home / "two.bundle").read_bytes()


def test_a_whole_one_is_found_so_and_gives_its_lock_and_files(made, packed):
    found = bundle.verify(packed, signing.believed())
    assert found.lock == made
    target = io.BytesIO()
    name = bundle.package_file("debian-12/amd64", "libc6", made["platforms"]["debian-12/amd64"]["packages"]["libc6"])
    found.pack({"libc6": name}, target)
    target.seek(0)
    with tarfile.open(fileobj=target) as tar:
        data = tar.extractfile("libc6").read()
    assert hashlib.sha256(data).hexdigest() == made["platforms"]["debian-12/amd64"]["packages"]["libc6"]["sha256"]


def test_any_tar_reads_it(packed):
    with tarfile.open(packed) as tar:
        names = tar.getnames()
    assert names[0] == bundle.MANIFEST
    assert {"appliance.lock", "key.asc", "apt/debian-12-amd64/InRelease", "SHA256"} <= set(names)


def test_every_flipped_bit_is_noticed(home, packed):
    whole, keys = packed.read_bytes(), signing.believed()
    random_bits = random.Random(5)
    spots = [random_bits.randrange(len(whole) * 8) for _ in range(100)]
    # headers, manifest, signature, padding and end, of which the random ones may meet none
    spots += [
        byte * 8 + random_bits.randrange(8) for byte in [*range(0, 600, 7), *range(len(whole) - 4096, len(whole), 29)]
    ]
    flipped = home / "flipped"
    for spot in spots:
        data = bytearray(whole)
        data[spot // 8] ^= 1 << spot % 8
        flipped.write_bytes(data)
        with pytest.raises(bundle.BundleError) as caught:
            bundle.verify(flipped, keys)
        assert caught.value.kind != "forged", spot


@pytest.mark.parametrize("kept", [600, 3000, 0.5, -1, -1024, -3000])
def test_one_that_is_cut_short_is_told_from_a_damaged_one(home, packed, kept):
    whole = packed.read_bytes()
    cut = int(len(whole) * kept) if isinstance(kept, float) else kept
    (home / "cut").write_bytes(whole[:cut])
    with pytest.raises(bundle.BundleError, match="cut short") as caught:
        bundle.verify(home / "cut", signing.believed())
    assert caught.value.kind == "truncated"


def forge(packed, change):
    """A bundle whose sums are made right again after a change of its bytes, as somebody who wants to deceive does."""
    data = bytearray(packed.read_bytes())
    change(data)
    body = bytes(data[: -len(bundle._tail("0" * 64))])
    return body + bundle._tail(hashlib.sha256(body).hexdigest())


def test_one_whose_content_was_exchanged_with_its_sums_is_forged(home, packed):
    entry = next(e for e in bundle.table(packed)[1] if e.name.endswith(".deb"))

    def exchange(data):
        data[entry.offset + 100] ^= 1

    (home / "forged").write_bytes(forge(packed, exchange))
    with pytest.raises(bundle.BundleError, match="forged") as caught:
        bundle.verify(home / "forged", signing.believed())
    assert caught.value.kind == "forged"


def test_one_whose_manifest_was_exchanged_too_is_forged(home, packed):
    entry = next(e for e in bundle.table(packed)[1] if e.name.endswith(".deb"))

    def exchange(data):
        data[entry.offset + 100] ^= 1
        new = hashlib.sha256(data[entry.offset : entry.offset + entry.size]).hexdigest().encode()
        at = data.index(entry.sha256.encode())
        data[at : at + 64] = new

    (home / "forged").write_bytes(forge(packed, exchange))
    with pytest.raises(bundle.BundleError, match="signature") as caught:
        bundle.verify(home / "forged", signing.believed())
    assert caught.value.kind == "forged"


def test_a_signer_who_is_not_believed_is_named_and_can_be_believed(packed):
    with pytest.raises(bundle.BundleError, match="not believed") as caught:
        bundle.verify(packed, {})
    assert caught.value.kind == "unknown"
    public = bundle.read_key(packed)
    fingerprint = signing.fingerprint_of(public)
    assert fingerprint in caught.value.cure
    assert bundle.verify(packed, {fingerprint: public})


def test_what_is_no_bundle_is_said_to_be_none(tmp_path):
    (tmp_path / "x").write_bytes(b"#!/bin/sh\n" * 300)
    with pytest.raises(bundle.BundleError, match="no bundle"):
        bundle.verify(tmp_path / "x", {})
    with pytest.raises(bundle.BundleError, match="cannot be read"):
        bundle.verify(tmp_path / "nothing", {})


def test_no_agent_of_gpg_stays(home):
    running = subprocess.run(["pgrep", "-af", f"gpg-agent.*{home}"], capture_output=True, text=True).stdout
    assert running == ""


def test_a_signature_that_ends_with_zeros_is_read_whole(home, packed, monkeypatch):
    """One in 256 does; a reader that strips the padding by its look would cut it."""
    seen = []
    monkeypatch.setattr(signing.SiteKey, "sign", lambda self, data: b"signature\0\0")
    monkeypatch.setattr(signing, "is_signed_by", lambda public, data, signature: seen.append(signature) or True)
    bundle.build(bundle.verify(packed, signing.believed()).lock, {}, home / "zeros", print)
    bundle.verify(home / "zeros", signing.believed())
    assert seen[-1] == b"signature\0\0"
