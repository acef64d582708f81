"""casemate_files: what is on the host afterwards, and what it says of it."""

import base64
import errno
import grp
import json
import os
import pwd
import stat
import sys

import pytest
from modules import load, run

OWNER = pwd.getpwuid(os.getuid()).pw_name
GROUP = grp.getgrgid(os.getgid()).gr_name
REFUSES = f"{sys.executable} -c 'import sys; print(\"line 1: no\"); sys.exit(3)' %s"


@pytest.fixture
def state(tmp_path_factory):
    """Where the module keeps its record: not this machine's."""
    return tmp_path_factory.mktemp("state")


@pytest.fixture
def files(capsys, state):
    """Calls the module with (entry, text) pairs."""
    module = load("modules/casemate_files.py")
    module.RECORD, module.ORIGINALS = str(state / "files"), str(state / "originals")

    def call(*entries: tuple[dict, str | None], check: bool = False) -> dict:
        described = [{"owner": OWNER, "group": GROUP, **entry, "dest": str(entry["dest"])} for entry, _ in entries]
        blob = base64.b64encode(json.dumps([text for _, text in entries]).encode()).decode()
        return run(module, capsys, check=check, files=described, contents=blob)

    return call


def mode(path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def listing(directory) -> list[str]:
    return sorted(str(p.relative_to(directory)) for p in directory.rglob("*"))


def test_a_missing_file_is_written_with_its_mode_and_its_parents(files, tmp_path):
    dest = tmp_path / "etc/app/x.conf"
    answer = files(({"dest": dest, "mode": "0640"}, "a = 1\n"))
    assert answer["changed"] is True
    assert answer["changed_files"] == [str(dest)]
    assert dest.read_text() == "a = 1\n"
    assert mode(dest) == 0o640
    assert mode(tmp_path / "etc") == mode(tmp_path / "etc/app") == 0o755


def test_the_same_again_changes_nothing(files, tmp_path):
    dest = tmp_path / "x.conf"
    files(({"dest": dest}, "a = 1\n"))
    before = dest.stat()
    answer = files(({"dest": dest}, "a = 1\n"))
    assert (answer["changed"], answer["changed_files"], answer["diff"]) == (False, [], [])
    assert (dest.stat().st_ino, dest.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_only_the_file_that_differs_is_named(files, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    files(({"dest": one}, "1\n"), ({"dest": two}, "2\n"))
    answer = files(({"dest": one}, "1\n"), ({"dest": two}, "zwei\n"))
    assert answer["changed_files"] == [str(two)]
    assert (answer["diff"][0]["before"], answer["diff"][0]["after"]) == ("2\n", "zwei\n")


def test_another_mode_alone_is_a_change_and_the_diff_shows_it(files, tmp_path):
    dest = tmp_path / "x"
    files(({"dest": dest, "mode": "0644"}, "a\n"))
    answer = files(({"dest": dest, "mode": "0600"}, "a\n"))
    assert answer["changed_files"] == [str(dest)]
    assert mode(dest) == 0o600
    assert "0644" in answer["diff"][0]["before_header"]
    assert "0600" in answer["diff"][0]["after_header"]


def test_what_a_validator_refuses_leaves_every_file_as_it_was(files, tmp_path):
    good, bad = tmp_path / "good", tmp_path / "bad"
    good.write_text("old\n")
    bad.write_text("old\n")
    answer = files(({"dest": good}, "new\n"), ({"dest": bad, "validate": REFUSES}, "new\n"))
    assert answer["failed"] is True
    assert str(bad) in answer["msg"] and "line 1: no" in answer["msg"]
    assert (good.read_text(), bad.read_text()) == ("old\n", "old\n")
    assert listing(tmp_path) == ["bad", "good"]


def test_the_validator_sees_the_new_text_under_the_same_ending(files, tmp_path):
    program = "import sys; p = sys.argv[1]; sys.exit(not (p.endswith('.toml') and open(p).read() == 'new\\n'))"
    answer = files(({"dest": tmp_path / "x.toml", "validate": f'{sys.executable} -c "{program}" %s'}, "new\n"))
    assert answer["changed"] is True, answer


def test_a_validator_without_a_place_for_the_file_is_refused(files, tmp_path):
    answer = files(({"dest": tmp_path / "x", "validate": "true"}, "new\n"))
    assert "%s" in answer["msg"]
    assert not (tmp_path / "x").exists()


def test_check_mode_tells_the_change_and_writes_nothing(files, tmp_path):
    old = tmp_path / "old"
    old.write_text("old\n")
    answer = files(
        ({"dest": old}, "new\n"),
        ({"dest": tmp_path / "deep/new"}, "new\n"),
        check=True,
    )
    assert answer["changed_files"] == [str(old), str(tmp_path / "deep/new")]
    assert old.read_text() == "old\n"
    assert listing(tmp_path) == ["old"]


def test_check_mode_asks_a_validator_that_is_there_and_passes_over_one_that_is_not(files, tmp_path):
    assert files(({"dest": tmp_path / "x", "validate": REFUSES}, "new\n"), check=True)["failed"] is True
    answer = files(({"dest": tmp_path / "x", "validate": "no-such-validator %s"}, "new\n"), check=True)
    assert answer["changed"] is True
    assert listing(tmp_path) == []


def test_check_mode_accepts_a_user_that_a_package_will_bring_and_a_real_run_does_not(files, tmp_path):
    entry = {"dest": tmp_path / "x", "owner": "casemate-nobody-here"}
    assert files((entry, "new\n"), check=True)["changed"] is True
    answer = files((entry, "new\n"))
    assert "casemate-nobody-here" in answer["msg"]


def test_a_file_that_is_to_be_absent_is_removed_once(files, tmp_path):
    dest = tmp_path / "x"
    dest.write_text("old\n")
    entry = {"dest": dest, "state": "absent"}
    assert files((entry, None), check=True)["changed_files"] == [str(dest)]
    assert dest.exists()
    assert files((entry, None))["changed_files"] == [str(dest)]
    assert not dest.exists()
    assert files((entry, None))["changed"] is False


def test_a_dangling_link_is_replaced_by_the_file(files, tmp_path):
    dest = tmp_path / "x"
    dest.symlink_to(tmp_path / "gone")
    assert files(({"dest": dest}, "new\n"))["changed"] is True
    assert not dest.is_symlink()
    assert dest.read_text() == "new\n"


def test_a_link_to_a_file_of_the_right_content_stays_as_it_is_reported(files, tmp_path):
    """Debian links some configuration; whatever is done with a link, the second run must find nothing to do."""
    target, dest = tmp_path / "target", tmp_path / "x"
    target.write_text("old\n")
    dest.symlink_to(target)
    files(({"dest": dest}, "new\n"))
    assert dest.read_text() == "new\n"
    assert files(({"dest": dest}, "new\n"))["changed"] is False


def test_a_directory_in_the_place_of_a_file_is_named(files, tmp_path):
    (tmp_path / "x").mkdir()
    answer = files(({"dest": tmp_path / "x"}, "new\n"))
    assert answer["failed"] is True
    assert str(tmp_path / "x") in answer["msg"] and "directory" in answer["msg"]


def test_what_the_system_refuses_is_told_with_the_files_name(files, tmp_path):
    (tmp_path / "file").write_text("")
    answer = files(({"dest": tmp_path / "file/x"}, "new\n"))
    assert answer["failed"] is True
    assert answer["msg"].startswith(f"{tmp_path}/file/x cannot be written: ")
    assert answer["msg"].endswith(f"File exists: '{tmp_path}/file'")


def test_a_full_disk_leaves_the_old_text_and_no_staged_one(files, tmp_path, monkeypatch):
    dest = tmp_path / "x"
    dest.write_text("old\n")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    answer = files(({"dest": dest}, "new\n"))
    assert answer["msg"] == f"{dest} cannot be written: [Errno {errno.ENOSPC}] No space left on device"
    assert dest.read_text() == "old\n"
    assert listing(tmp_path) == ["x"]


def test_a_hidden_files_text_is_in_no_part_of_the_answer(files, tmp_path):
    dest = tmp_path / "key"
    dest.write_text("old-secret")
    answer = files(({"dest": dest, "no_log": True, "mode": "0600"}, "new-secret"))
    assert "secret" not in json.dumps(answer)
    assert dest.read_text() == "new-secret"


def test_a_secret_is_never_readable_by_others_while_it_is_written(files, tmp_path):
    """The staged file is private from its first byte: the validator, running meanwhile, sees its mode."""
    program = "import os, sys; sys.exit(os.stat(sys.argv[1]).st_mode & 0o077)"
    entry = {"dest": tmp_path / "key", "mode": "0600", "validate": f'{sys.executable} -c "{program}" %s'}
    assert files((entry, "x"))["changed"] is True


def test_text_that_is_not_ascii_is_written_as_utf8(files, tmp_path, monkeypatch):
    dest = tmp_path / "x"
    files(({"dest": dest}, "Grüße\n"))
    assert dest.read_bytes() == "Grüße\n".encode()
    assert files(({"dest": dest}, "Grüße\n"))["changed"] is False


def test_what_is_written_is_recorded_once(files, state, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    files(({"dest": one}, "1\n"), ({"dest": two}, "2\n"))
    files(({"dest": one}, "changed\n"), ({"dest": two}, "2\n"))
    assert (state / "files").read_text().splitlines() == [str(one), str(two)]


def test_a_file_that_was_right_already_is_not_ours(files, state, tmp_path):
    dest = tmp_path / "x"
    dest.write_text("a\n")
    dest.chmod(0o644)
    files(({"dest": dest}, "a\n"))
    assert not (state / "files").exists()


def test_what_a_file_replaces_is_kept_once_with_its_mode(files, state, tmp_path):
    dest = tmp_path / "x"
    dest.write_text("the admin's\n")
    dest.chmod(0o640)
    files(({"dest": dest}, "ours\n"))
    files(({"dest": dest}, "ours again\n"))
    kept = state / f"originals{dest}"
    assert kept.read_text() == "the admin's\n"
    assert mode(kept) == 0o640
    assert mode(state / "originals") == 0o700


def test_check_mode_records_nothing(files, state, tmp_path):
    files(({"dest": tmp_path / "x"}, "a\n"), check=True)
    assert listing(state) == []
