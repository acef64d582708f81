"""What a host makes of a lock, and of the releases that it keeps."""

import json
import os
import threading
from pathlib import Path

import pytest
import yaml

from appliance import __version__
from appliance.node.release import guard, impact, install, locked, path, transaction
from appliance.node.reset import records

CONTENT = {
    "id": "0123456789ab",
    "platform": "debian-12/amd64",
    "selections": [{"asked": ["containerd"], "packages": ["containerd", "libc6", "runc"]}],
    "guest": ["crun"],
    "kernel": ["linux-image-6.1.0-2-amd64"],
    "packages": {
        name: {"version": "2", "size": 3, "sha256": name.encode().hex().ljust(64, "0")[:64], "url": f"http://x/{name}"}
        for name in ("containerd", "libc6", "runc", "crun", "linux-image-6.1.0-2-amd64", "qemu-system-x86")
    },
}


@pytest.fixture
def release(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "STATE", tmp_path)
    return locked.read(CONTENT, tmp_path / "releases")


def test_what_was_there_before_us_is_left_unless_it_is_asked_for(release, tmp_path):
    (tmp_path / "packages-before").write_text("libc6\ncontainerd\n")
    there = {"containerd": "1", "libc6": "1"}
    assert locked.look(["containerd"], release.versions(["containerd"]), there) == {
        "install": {"runc": "2"},
        "change": {"containerd": ["1", "2"]},
        "own": {"libc6": ["1", "2"]},
    }


@pytest.mark.parametrize(
    ("asked", "said"), [(["containerd", "mosquitto"], "it has no mosquitto"), ([], "asks for just these packages")]
)
def test_a_host_that_a_lock_was_not_made_for_is_told_why(release, asked, said):
    with pytest.raises(locked.LockError, match=said):
        release.needed(asked)


@pytest.mark.parametrize("broken", [{}, {"id": "x"}, CONTENT | {"packages": {"a": {"version": "1"}}}])
def test_what_is_no_lock_is_refused(broken):
    with pytest.raises(locked.LockError):
        locked.read(broken)


def test_a_package_file_is_taken_from_another_kept_release_and_a_wrong_one_is_not(release, tmp_path):
    import hashlib

    package = release.packages["runc"]._replace(sha256=hashlib.sha256(b"deb").hexdigest())
    kept = release._replace(packages=release.packages | {"runc": package})
    other = tmp_path / "releases/other/debs"
    other.mkdir(parents=True)
    release.debs.mkdir(parents=True)
    (other / package.file).write_bytes(b"bad")
    install.link_kept(kept, ["containerd"])
    assert list(release.debs.iterdir()) == []
    (other / package.file).write_bytes(b"deb")
    install.link_kept(kept, ["containerd"])
    assert [path.name for path in release.debs.iterdir()] == [package.file]


def test_impact_says_what_restarts_and_what_stays(release):
    different = {"install": {"runc": "2"}, "change": {"containerd": ["1", "2"], "qemu-system-x86": ["1", "2"]}}
    lines = impact.of(release, different, ("aaa", "bbb"))
    assert [(one["component"], one["impact"]) for one in lines] == [
        ("containerd", impact.SERVICE),
        ("qemu-system-x86", impact.KEPT),
        ("casemate", impact.SERVICE),
        ("guest", impact.KEPT),
        ("others", impact.NONE),
    ]
    assert "pods stay up" in impact.words(lines)[0]


def test_impact_names_the_pods_that_keep_the_old_or_are_restarted(release):
    different = {"install": {}, "change": {"containerd": ["1", "2"], "qemu-system-x86": ["1", "2"]}}
    kept = impact.of(release, different, ("a", "a"), lambda: ["default/db"])
    rolled = impact.of(release, different, ("a", "a"), lambda: ["default/db"], restart=True)
    for lines, what in ((kept, impact.KEPT), (rolled, impact.ROLLED)):
        touched = [(one["component"], one["impact"]) for one in lines if one["pods"] == ["default/db"]]
        assert touched == [("qemu-system-x86", what), ("guest", what)]
    assert "restarted one by one: default/db" in impact.words(rolled)[1]


def left(releases: Path, name: str, moment: float, packages: dict) -> None:
    place = releases / name
    place.mkdir(parents=True)
    told = {"packages": packages, "programs": "node/a", "guest": "g", "left": moment}
    (place / "left.json").write_text(json.dumps(told))


def test_going_back_over_several_releases_undoes_each_change_since(tmp_path, monkeypatch):
    monkeypatch.setattr(transaction, "RELEASES", tmp_path)
    monkeypatch.setattr(transaction, "LIB", tmp_path / "lib")
    (tmp_path / "lib/node/a").mkdir(parents=True)
    left(tmp_path, "one", 1.0, {"x": "1", "new": None})
    left(tmp_path, "two", 2.0, {"x": "2", "y": "1"})
    assert list(transaction.kept_releases()) == ["two", "one"]
    versions, files = transaction.packages_of("one")
    assert versions == {"x": "1", "new": None, "y": "1"}
    assert (files["x"], files["y"]) == (tmp_path / "one/left/x.deb", tmp_path / "two/left/y.deb")
    assert transaction.packages_of("two")[0] == {"x": "2", "y": "1"}
    with pytest.raises(transaction.TransactionError, match="these are: two, one"):
        transaction.packages_of("three")


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setattr(guard, "LEASE", tmp_path / "lease")
    monkeypatch.setattr(guard, "ASKED", tmp_path / "asked")
    return tmp_path


def test_the_guard_rolls_back_when_it_is_asked_or_hears_nothing_and_goes_on_when_it_was_cut_off(place):
    found = transaction.Transaction(to="a", before="b", boot="c", since=0.0, monotonic=0.0)
    guard.renew()
    assert guard._reason(found) == ""
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    (place / "lease").write_text(f"{uptime - guard.LEASE_SECONDS - 2} 0")
    assert "was not heard of" in guard._reason(found)
    guard.renew()
    (place / "asked").write_text("a gate")
    assert guard._reason(found) == "a gate"
    found.phase, found.reason = "rolling back", "before"
    assert guard._reason(found) == "before"


def test_a_lease_is_whole_whenever_it_is_read(place):
    """A guard that read one that was being written took its run for gone."""
    guard.renew()
    over = threading.Event()

    def renew():
        while not over.is_set():
            guard.renew()

    writer = threading.Thread(target=renew)
    writer.start()
    try:
        assert max(guard._age() for _ in range(5000)) < 10
    finally:
        over.set()
        writer.join()


def test_a_lease_that_cannot_be_read_is_none(place):
    found = transaction.Transaction(to="a", before="b", boot="c", since=0.0, monotonic=0.0)
    (place / "lease").write_text("")
    assert "was not heard of" in guard._reason(found)


def test_files_come_back_as_they_were_and_new_ones_go(tmp_path, monkeypatch):
    """The archive holds absolute paths: they are below a directory of the test's here."""
    monkeypatch.setattr(records, "STATE", tmp_path / "state")
    monkeypatch.setattr(records, "CONFIG", tmp_path / "etc")
    (tmp_path / "state").mkdir()
    (tmp_path / "etc").mkdir()
    kept, changed, new = (tmp_path / "etc" / name for name in ("kept", "changed", "new"))
    changed.write_text("before")
    changed.chmod(0o600)
    kept.write_text("kept")
    (tmp_path / "state/files").write_text(f"{changed}\n{kept}\n")
    foreign = tmp_path / "etc/foreign"  # a manifest that somebody dropped
    foreign.write_text("before")
    archive = tmp_path / "files.tar"
    transaction._keep_files(archive)
    assert os.stat(archive).st_mode & 0o777 == 0o600
    changed.write_text("after")
    changed.chmod(0o644)
    new.write_text("new")
    foreign.write_text("after")
    (tmp_path / "state/files").write_text(f"{changed}\n{kept}\n{new}\n")
    transaction._put_files_back(archive)
    assert (changed.read_text(), changed.stat().st_mode & 0o777, new.exists()) == ("before", 0o600, False)
    assert records.files() == [changed, kept]
    assert foreign.read_text() == "after"
    transaction._put_files_back(archive)  # cut off and done again
    assert changed.read_text() == "before"


TABLE = {
    "1.5.0": {
        "min": "1.2.0",
        "max": "1.4.9",
        "denied": [{"release": "1.3.1", "reason": "its volumes are kept otherwise", "way": "1.3.2 moves them"}],
    },
    "1.3.2": {"min": "1.2.0", "max": "1.3.1", "denied": []},
    "1.2.0": {"min": "1.0.0", "max": "1.1.9", "denied": []},
    "1.0.0": {"min": "1.0.0", "max": "1.0.0", "denied": []},
}


@pytest.mark.parametrize(
    ("here", "said"),
    [
        ("1.2.0", ""),
        ("1.4.9", ""),
        ("1.5.0", ""),
        ("1.3.1", "its volumes are kept otherwise (1.3.2 moves them); upgrade in these steps: 1.3.1 -> 1.3.2 -> 1.5.0"),
        ("1.1.9", "1.2.0 is the oldest that it can be reached from; upgrade in these steps: 1.1.9 -> 1.2.0 -> 1.5.0"),
        ("0.9.0", "cannot be reached from 0.9.0: 1.2.0 is the oldest"),
        ("1.10.0", "newer"),
    ],
)
def test_a_way_that_is_not_allowed_is_told_with_the_way_round(here, said):
    assert (said in path.problem(here, "1.5.0", TABLE)) and bool(said) == bool(path.problem(here, "1.5.0", TABLE))


def test_the_table_of_releases_has_this_one_and_each_can_be_reached_from_the_one_before():
    table = yaml.safe_load((Path(__file__).parents[2] / "appliance/releases.yml").read_text())
    assert __version__ in table
    for release, rules in table.items():
        assert set(rules) == {"min", "max", "denied"}
        assert not path.problem(rules["max"], release, table)
        for one in rules["denied"]:
            assert one["reason"] in path.problem(one["release"], release, table)
