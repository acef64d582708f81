"""Which backups go by a time of their own, and what is compared after a restore."""

import json
import os

import pytest

from appliance.commands.backup import Duration
from appliance.node.backup import arrived, run
from appliance.node.backup.settings import BackupError


def snapshot(name: str, *tags: str) -> dict:
    return {"short_id": name, "tags": ["casemate", *tags]}


def test_a_time_of_its_own_is_over_when_it_is_past_and_none_is_never_over():
    kept = [snapshot("a", "everything", "until-10"), snapshot("b", "everything", "until-90"),
            snapshot("c", "part", "until-20"), snapshot("d", "everything")]  # fmt: skip
    assert run.expired(kept, 50) == ["a", "c"]
    assert run.expired(kept, 100) == ["a", "b", "c"]


def test_the_last_whole_one_stays_whatever_its_time():
    kept = [snapshot("a", "everything", "until-10"), snapshot("b", "everything", "until-11"),
            snapshot("c", "part", "until-12")]  # fmt: skip
    assert run.expired(kept, 50) == ["a", "c"]


@pytest.mark.parametrize(("text", "seconds"), [("12h", 43200), ("30d", 2592000), ("8w", 4838400)])
def test_a_time_is_a_number_and_a_unit(text, seconds):
    assert Duration().convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["", "0d", "5", "d", "-1d", "1.5d", "1d 2h"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(Exception, match="no time such as 12h"):
        Duration().convert(text, None, None)


@pytest.fixture
def fetched(tmp_path):
    """A volume as it came back, and the list of what the backup has."""
    volume = tmp_path / "volumes" / "data"
    volume.mkdir(parents=True)
    (volume / "a file\nof two lines").write_text("12345")
    (volume / "link").symlink_to("elsewhere")
    os.chmod(volume / "a file\nof two lines", 0o640)
    nodes = []
    for path, kind in ((volume, "dir"), (volume / "a file\nof two lines", "file"), (volume / "link", "symlink")):
        found = path.lstat()
        nodes.append({"path": f"/{path.relative_to(tmp_path)}", "type": kind, "size": 5 if kind == "file" else 0,
                      "mode": found.st_mode & 0o777, "uid": found.st_uid, "gid": found.st_gid})  # fmt: skip
    listing = tmp_path / "listing"
    listing.write_text("".join(json.dumps(node) + "\n" for node in nodes))
    return listing, tmp_path, volume / "a file\nof two lines"


def test_what_came_back_as_it_was_is_counted(fetched):
    assert arrived.compare(*fetched[:2]) == 3


def _shorter(file):
    file.write_text("1234")


def _of_another(file):
    os.chown(file, 12345, 12345)


def _with_another_mode(file):
    file.chmod(0o600)


def _not_a_file(file):
    file.unlink()
    file.mkdir()


def _gone(file):
    file.unlink()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [(_shorter, "has 4 bytes, not 5"), (_of_another, "belongs to 12345:12345"), (_not_a_file, "is no file"),
     (_with_another_mode, "has mode 600, not 640"), (_gone, "No such file")],
)  # fmt: skip
def test_what_did_not_is_named(fetched, spoil, said):
    listing, root, file = fetched
    spoil(file)
    with pytest.raises(BackupError, match=said):
        arrived.compare(listing, root)
