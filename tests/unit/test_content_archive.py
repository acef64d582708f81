"""The node programs' archive: the same bytes from the same sources, and what a host makes of it."""

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from appliance import archive
from appliance.node import entry


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A small `appliance` package that is packed instead of ours, and a cache of its own."""
    package = tmp_path / "site/appliance"
    (package / "node/bin").mkdir(parents=True)
    shutil.copy(Path(archive.__file__).parent / "node/entry.py", package / "node/entry.py")
    for init in (package / "__init__.py", package / "node/__init__.py"):
        init.write_text("")
    (package / "node/bin/casemate-x").write_text("#!/usr/bin/python3\n")
    (package / "node/bin/casemate-x").chmod(0o755)
    monkeypatch.setattr(archive, "__file__", str(package / "archive.py"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return package


@pytest.fixture
def lib(tmp_path, monkeypatch):
    """A directory in the place of /usr/lib/casemate."""
    lib = tmp_path / "usr/lib/casemate"
    monkeypatch.setattr(entry, "LIB", lib)
    return lib


def names(path: str) -> list[str]:
    with zipfile.ZipFile(path) as bundle:
        return bundle.namelist()


def test_equal_sources_give_equal_bytes_whatever_their_times(package):
    first = archive.node_archive()
    data = Path(first["path"]).read_bytes()
    Path(first["path"]).unlink()
    for source in package.rglob("*.py"):
        os.utime(source, (1, 1))
    second = archive.node_archive()
    assert second == first
    assert Path(second["path"]).read_bytes() == data


def test_the_id_is_the_beginning_of_the_files_digest(package):
    made = archive.node_archive()
    assert hashlib.sha256(Path(made["path"]).read_bytes()).hexdigest() == made["sha256"]
    assert made["sha256"].startswith(made["id"]) and len(made["id"]) == 12


def test_another_source_or_mode_is_another_id(package):
    ids = {archive.node_archive()["id"]}
    (package / "node/more.py").write_text("x = 1\n")
    ids.add(archive.node_archive()["id"])
    (package / "node/more.py").chmod(0o755)
    ids.add(archive.node_archive()["id"])
    assert len(ids) == 3


def test_what_nobody_used_for_a_week_goes_and_the_one_in_use_stays(package):
    old = Path(archive.node_archive()["path"])
    other = old.with_name("casemate-node-000000000000.pyz")
    other.touch()
    for file in (old, other):
        os.utime(file, (0, 0))
    assert Path(archive.node_archive()["path"]).exists()
    (package / "node/entry.py").write_text("changed = True\n")
    archive.node_archive()
    assert old.exists() and not other.exists()


def test_compiled_files_do_not_travel(package):
    (package / "node/__pycache__").mkdir()
    (package / "node/__pycache__/entry.cpython-311.pyc").write_bytes(b"x")
    assert not [n for n in names(archive.node_archive()["path"]) if "pyc" in n]


def test_ours_holds_every_program_and_no_part_of_the_command(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    held = names(archive.node_archive()["path"])
    assert {f"{module.replace('.', '/')}.py" for module in entry.PROGRAMS.values()} <= set(held)
    assert all(n in ("__main__.py", "appliance/__init__.py") or n.startswith("appliance/node/") for n in held)


def test_ours_runs_as_it_is(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    argv = [sys.executable, "-I", archive.node_archive()["path"]]
    helped = subprocess.run([*argv, "health", "--help"], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert helped.returncode == 0 and "doctor" in helped.stdout, helped.stderr
    unknown = subprocess.run([*argv, "nonsense"], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert unknown.returncode == 2 and "usage" in unknown.stderr


def test_an_installation_is_reached_through_its_links_and_keeps_modes(package, lib, capsys):
    made = archive.node_archive()
    assert entry.install(Path(made["path"])) == 0
    assert capsys.readouterr().out == f"installed {made['id']}\n"
    assert (lib / "current").resolve() == lib / "node" / made["id"]
    assert os.access(lib / "bin/casemate-x", os.X_OK)
    assert not os.access(lib / "current/appliance/node/entry.py", os.X_OK)


def test_installing_again_changes_nothing(package, lib, capsys):
    made = archive.node_archive()
    entry.install(Path(made["path"]))
    before = {p: p.lstat().st_mtime_ns for p in lib.rglob("*")}
    capsys.readouterr()
    assert entry.install(Path(made["path"])) == 0
    assert capsys.readouterr().out == f"current {made['id']}\n"
    assert {p: p.lstat().st_mtime_ns for p in lib.rglob("*")} == before


def test_an_installation_cut_off_while_unpacking_leaves_the_old_one_current(package, lib, monkeypatch):
    old = archive.node_archive()
    entry.install(Path(old["path"]))
    (package / "node/more.py").write_text("x = 1\n")
    new = archive.node_archive()

    def cut_off(self, info, directory):
        directory.mkdir()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(zipfile.ZipFile, "extract", cut_off)
        with pytest.raises(KeyboardInterrupt):
            entry.install(Path(new["path"]))
    assert (lib / "current").resolve().name == old["id"]
    assert not (lib / "node" / new["id"]).exists()
    entry.install(Path(new["path"]))
    assert (lib / "current").resolve().name == new["id"]
    assert {p.name for p in (lib / "node").iterdir()} == {old["id"], new["id"]}


def test_an_installation_cut_off_before_its_links_is_finished_by_the_next(package, lib, monkeypatch):
    made = archive.node_archive()

    def cut_off(link, target):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(entry, "_link", cut_off)
        with pytest.raises(KeyboardInterrupt):
            entry.install(Path(made["path"]))
    assert entry.install(Path(made["path"])) == 0
    assert (lib / "current").resolve().name == made["id"]
    assert (lib / "bin/casemate-x").exists()


def test_only_the_newest_releases_are_kept_and_the_current_one_always(package, lib):
    made = []
    for number in range(entry.KEEP_RELEASES + 2):
        (package / "node/more.py").write_text(f"x = {number}\n")
        made.append(archive.node_archive())
        entry.install(Path(made[-1]["path"]))
        os.utime(lib / "node" / made[-1]["id"], (number, number))
    kept = {p.name for p in (lib / "node").iterdir()}
    assert kept == {m["id"] for m in made[-entry.KEEP_RELEASES :]}
    entry.install(Path(made[-2]["path"]))
    assert (lib / "current").resolve().name == made[-2]["id"]
