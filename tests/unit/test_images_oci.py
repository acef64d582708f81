"""Images made without a registry."""

import hashlib
import io
import json
import tarfile

import pytest

from appliance.node.images import oci

IMAGE = oci.Image(
    "localhost/x/app:2",
    [oci.Entry("bin"), oci.Entry("bin/app", b"#!"), oci.Entry("sh", target="bin/app")],
    ["/bin/app"],
)


def files_of(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {m.name: tar.extractfile(m).read() for m in tar if m.isfile()}


def test_equal_inputs_give_equal_bytes():
    assert oci.build(IMAGE, "amd64") == oci.build(IMAGE, "amd64")


def test_every_blob_is_named_by_its_digest_and_every_reference_leads_to_one():
    files = files_of(oci.build(IMAGE, "amd64"))
    blobs = {name.rpartition("/")[2]: data for name, data in files.items() if name.startswith("blobs/")}
    assert all(hashlib.sha256(data).hexdigest() == name for name, data in blobs.items())
    (described,) = json.loads(files["index.json"])["manifests"]
    manifest = json.loads(blobs[described["digest"].removeprefix("sha256:")])
    for reference in [manifest["config"], *manifest["layers"]]:
        assert len(blobs[reference["digest"].removeprefix("sha256:")]) == reference["size"]
    config = json.loads(blobs[manifest["config"]["digest"].removeprefix("sha256:")])
    # the layer is not compressed, so its digest is its diff_id as well
    assert config["rootfs"]["diff_ids"] == [manifest["layers"][0]["digest"]]


def test_images_run_as_nobody_unless_said_otherwise():
    files = files_of(oci.build(IMAGE, "amd64"))
    configs = [json.loads(data) for data in files.values() if b'"rootfs"' in data and data.startswith(b"{")]
    assert configs[0]["config"]["User"] == "65534:65534"


def test_an_archives_images_are_found_by_full_name_and_digest(tmp_path):
    path = tmp_path / "app.tar"
    path.write_bytes(oci.build(IMAGE, "amd64"))
    found = oci.images_in(path)
    assert list(found) == ["localhost/x/app:2"]
    assert found["localhost/x/app:2"].startswith("sha256:")


def test_another_content_has_another_digest(tmp_path):
    one, two = tmp_path / "1", tmp_path / "2"
    one.write_bytes(oci.build(IMAGE, "amd64"))
    two.write_bytes(oci.build(oci.Image(IMAGE.reference, [oci.Entry("x", b"")], ["/x"]), "amd64"))
    assert oci.images_in(one) != oci.images_in(two)


@pytest.mark.parametrize("content", [b"", b"no tar"])
def test_a_file_that_is_no_archive_is_an_error_with_its_name(tmp_path, content):
    path = tmp_path / "bad.tar"
    path.write_bytes(content)
    with pytest.raises(oci.ArchiveError, match=r"bad\.tar"):
        oci.images_in(path)


def test_an_archive_whose_image_has_no_full_name_is_refused_with_a_cure(tmp_path):
    path = tmp_path / "app.tar"
    path.write_bytes(oci.build(oci.Image("app", [oci.Entry("x", b"")], ["/x"]), "amd64"))
    with pytest.raises(oci.ArchiveError, match="localhost/app:1"):
        oci.images_in(path)
