"""The wheel is whole: installed anywhere, run from anywhere, it has its roles and needs no checkout."""

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
CONTENT = ("roles", "playbooks", "plugins", "inventories")


def sources(*below: str) -> list[str]:
    """The checkout's files, without what git ignores."""
    argv = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", *below]
    listed = subprocess.run(argv, cwd=PROJECT, capture_output=True, text=True, check=True).stdout.split("\0")
    return [name for name in listed if name and (PROJECT / name).exists()]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel of a copy of the sources: a working tree holds build leftovers too. Needs no network."""
    source = tmp_path_factory.mktemp("source")
    for name in sources():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(PROJECT / name, source / name)
    out = tmp_path_factory.mktemp("dist")
    done = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The bin directory of a fresh venv with the wheel in it; what it depends on is borrowed from this environment."""
    home = tmp_path_factory.mktemp("venv")
    venv.create(home, with_pip=False, symlinks=True)
    (site,) = home.glob("lib/python*/site-packages")
    (site / "borrowed.pth").write_text("\n".join(p for p in sys.path if p.endswith("site-packages")) + "\n")
    done = subprocess.run(
        [
            sys.executable, "-m", "pip", "--python", str(home / "bin/python"), "install",
            "--quiet", "--no-deps", "--no-index", "--ignore-installed", str(wheel),
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return home / "bin"


@pytest.fixture
def run(installed, tmp_path, monkeypatch):
    """Runs a program of the venv from a directory that has nothing to do with us."""

    def call(*argv: str) -> subprocess.CompletedProcess:
        kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "CASEMATE_CONTENT")}
        return subprocess.run(
            [str(installed / argv[0]), *argv[1:]],
            cwd=tmp_path,
            env={**kept, "HOME": str(tmp_path), "CASEMATE_LAB_DIR": str(tmp_path / "no-lab")},
            capture_output=True,
            text=True,
            check=False,
        )

    return call


def test_the_wheel_holds_every_file_of_the_content(wheel):
    wanted = {f"appliance/_content/{name}" for name in sources(*CONTENT, "ansible.cfg")}
    assert len(wanted) > 50
    with zipfile.ZipFile(wheel) as archive:
        assert wanted - set(archive.namelist()) == set()


def test_the_wheel_holds_no_tests_and_no_leftovers(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"appliance"}
    assert [name for name in names if name.endswith(".pyc") or "/tests/" in name] == []


def test_the_command_runs_from_any_directory(run):
    done = run("appliance", "--help")
    assert done.returncode == 0, done.stderr
    assert "deploy" in done.stdout


def test_the_content_is_the_wheels_own_and_the_dynamic_inventory_can_be_run(run, installed):
    done = run("python", "-c", "from appliance.content import content; print(content())")
    found = Path(done.stdout.strip())
    assert found.is_relative_to(installed.parent), done.stderr
    assert os.access(found / "inventories/lab/hosts.py", os.X_OK)


def test_an_inventory_is_validated_against_the_wheels_roles(run, tmp_path):
    shutil.copytree(PROJECT / "inventories/fleet", tmp_path / "mine")
    site = tmp_path / "mine/site.yml"
    site.write_text(site.read_text().replace("storage_device:", "storage_devise:", 1))
    done = run("appliance", "plan", "-i", "mine")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "storage_devise" in done.stderr and "storage_device" in done.stderr


def test_a_limit_without_a_match_shows_that_the_inventory_itself_is_valid(run, tmp_path):
    shutil.copytree(PROJECT / "inventories/fleet", tmp_path / "mine")
    done = run("appliance", "plan", "-i", "mine", "--limit", "nobody")
    assert done.returncode == 2
    assert "nobody" in done.stderr
    assert "storage_devi" not in done.stderr


def test_the_playbook_of_the_wheel_starts_with_its_plugins(run, tmp_path):
    """A host that nobody has: ansible-core, our callback and the lookup are found, and the host is unreachable."""
    (tmp_path / "site.yml").write_text(
        "appliance: {hosts: {nowhere: {ansible_host: 127.0.0.1, ansible_port: 9, ansible_user: nobody}}}\n"
    )
    done = run("appliance", "plan", "-i", "site.yml", "-o", "json")
    assert done.returncode == 4, done.stdout + done.stderr
    assert '"unreachable"' in done.stdout.splitlines()[-1]
