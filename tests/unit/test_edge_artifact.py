"""A release of EdgeCore is fetched whole and checked, or nothing of it is there."""

import tarfile

import pytest

from appliance.node.edge import artifact
from appliance.node.edge.settings import Artifact, EdgeError
from tests.standins import release

MEMBER = f"kubeedge-{release.VERSION}-linux-amd64/edge/edgecore"


@pytest.fixture
def served(tmp_path, monkeypatch):
    """The server of a release, its archive, and a function that fetches it; EdgeCore is a stand-in always."""
    monkeypatch.delenv("CASEMATE_EDGECORE", raising=False)
    (tmp_path / "served").mkdir()
    archive = release.make(tmp_path / "served")
    server = release.Server("127.0.0.1", tmp_path / "served")

    def fetch(**changes) -> bool:
        known = {"url": f"{server.url}/{archive.name}", "checksum": release.checksum(archive), "member": MEMBER}
        wanted = Artifact(**{**known, "size": archive.stat().st_size, **changes})
        return artifact.fetch(wanted, tmp_path / "releases", tmp_path / "staging")

    yield server, archive, fetch
    server.stop()


def left(tmp_path) -> list[str]:
    """What fetching left that could be taken for a release."""
    return [path.name for path in (tmp_path / "releases").glob("*")] if (tmp_path / "releases").exists() else []


def test_only_the_wanted_member_is_unpacked_for_root_alone_and_a_second_fetch_asks_nobody(served, tmp_path):
    server, archive, fetch = served
    assert fetch() is True
    identity = release.checksum(archive).partition(":")[2][:12]
    assert left(tmp_path) == [identity]
    [unpacked] = (tmp_path / "releases" / identity).iterdir()
    assert unpacked.read_bytes() == release.STANDIN.read_bytes().replace(b"\n", b"\n\n", 1)
    assert unpacked.stat().st_mode & 0o777 == 0o700
    assert not (tmp_path / "staging").exists()
    assert fetch() is False
    assert len(server.served) == 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"checksum": f"sha512:{'0' * 128}"}, "has the sha512 checksum"),
        ({"checksum": f"sha256:{'0' * 64}"}, "has the sha256 checksum"),
        ({"size": 100}, "is longer than edge_size"),
        ({"size": 10**7}, "is cut short"),
        ({"member": "kubeedge-v1.99.0-linux-amd64/edge/edgecore"}, "edge_version"),
    ],
)
def test_what_is_not_the_pinned_file_is_refused_and_nothing_is_left(served, tmp_path, changes, said):
    _, _, fetch = served
    if changes.get("size") == 10**7:
        changes["checksum"] = f"sha256:{'0' * 64}"
    with pytest.raises(EdgeError, match=said) as refused:
        fetch(**changes)
    assert "nothing was installed" in str(refused.value)
    assert left(tmp_path) == []
    assert fetch() is True


def test_a_download_that_is_cut_off_again_and_again_goes_on_where_it_ended(served, tmp_path):
    server, archive, fetch = served
    size = archive.stat().st_size
    server.cut = size // 2 - 1
    assert fetch() is True
    asked = [one.partition(" ")[2] for one in server.served]
    assert asked == ["", f"bytes={size // 2 - 1}-", f"bytes={2 * (size // 2 - 1)}-"]


def test_a_download_that_failed_goes_on_with_the_next_run(served, tmp_path):
    server, _, fetch = served
    server.cut = 10
    with pytest.raises(EdgeError, match="the connection ended after 10 of"):
        fetch()
    assert left(tmp_path) == []
    server.cut = 0
    assert fetch() is True
    assert server.served[-1].endswith("bytes=30-")


def test_a_server_that_is_gone_or_has_no_such_file_is_named(served):
    server, _, fetch = served
    with pytest.raises(EdgeError, match="404"):
        fetch(url=f"{server.url}/other.tar.gz")
    with pytest.raises(EdgeError, match=r"Connection refused.*edge_url"):
        fetch(url="http://127.0.0.1:9/x.tar.gz")


def test_an_archive_whose_member_is_a_link_is_refused(served, tmp_path):
    _, archive, fetch = served
    with tarfile.open(archive, "w:gz") as tar:
        info = tarfile.TarInfo(MEMBER)
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/shadow"
        tar.addfile(info)
    with pytest.raises(EdgeError, match="no regular file"):
        fetch()
    assert left(tmp_path) == []
