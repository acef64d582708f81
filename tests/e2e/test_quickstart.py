"""The first screen of the README, as a newcomer does it: a fresh clone, one command, a page from a microVM."""

import os
import re
import shutil
import subprocess
import urllib.request
from pathlib import Path

import pytest

from appliance.lab import manage, state

pytestmark = pytest.mark.lab
ROOT = Path(__file__).resolve().parents[2]
MINUTES = 60


def clone_to(directory: Path) -> Path:
    # a copy of the repository as it was committed: nothing of this checkout's environment comes along
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(directory)], check=True)
    return directory


def quickstart(clone: Path, *options: str) -> subprocess.CompletedProcess:
    argv = [str(clone / "quickstart"), *options]
    return subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=20 * MINUTES)


def in_host(name: str, *command: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        manage.shell(name, list(command)),
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=20 * MINUTES,
    )


@pytest.fixture
def lab1():
    """quickstart's own host name, free before and gone after."""
    if state.load("lab1"):
        manage.down(["lab1"])
    yield
    if state.load("lab1"):
        manage.down(["lab1"])


@pytest.fixture
def bare_host(request):
    """A lab host with nothing but what a minimal Debian has, and a clone of the repository in it."""
    name, release = "e2ehere", getattr(request, "param", "bookworm")
    manage.up([name], release=release)
    clone_to(state.load(name).root / "root/casemate")
    yield name
    manage.down([name])


@pytest.mark.parametrize("release", ["bookworm", pytest.param("trixie", marks=pytest.mark.full)])
def test_quickstart_in_a_fresh_clone_serves_a_page_from_a_microvm(tmp_path, lab1, release):
    clone = clone_to(tmp_path / "casemate")
    first = quickstart(clone, "--release", release)
    assert first.returncode == 0, first.stdout + first.stderr
    address = re.search(r"answers at (http://\S+)", first.stdout).group(1)
    page = urllib.request.urlopen(address, timeout=30).read().decode()
    kernel = re.search(r"guest kernel: ([^<]+)", page).group(1).strip()
    assert kernel != os.uname().release
    assert kernel in first.stdout
    assert f"curl {address}" in first.stdout

    again = quickstart(clone, "--release", release)
    assert again.returncode == 0, again.stdout + again.stderr
    assert re.search(r"^ok +lab1 +0 changed", again.stderr, re.M), again.stderr


@pytest.mark.full
@pytest.mark.parametrize("bare_host", ["bookworm", "trixie"], indirect=True)
def test_here_deploys_to_the_machine_itself(bare_host):
    first = in_host(bare_host, "casemate/quickstart", "--here", "--yes")
    assert first.returncode == 0, first.stdout + first.stderr
    assert "The demo pod answers at http://127.0.0.1:8080/ from guest kernel" in first.stdout
    page = urllib.request.urlopen(f"http://{state.load(bare_host).ip}:8080/", timeout=30).read().decode()
    assert os.uname().release not in re.search(r"guest kernel: ([^<]+)", page).group(1)
    again = in_host(bare_host, "casemate/quickstart", "--here", "--yes")
    assert again.returncode == 0, again.stderr
    assert re.search(r"^ok +this-machine +0 changed", again.stderr, re.M), again.stderr


def test_where_it_cannot_work_one_line_says_what_is_needed(bare_host):
    root = state.load(bare_host).root

    in_host(bare_host, "ip", "link", "set", "eth0", "down")
    cut_off = in_host(bare_host, "casemate/quickstart", "--here", "--yes")
    assert cut_off.returncode == 1
    assert "cannot install packages: this machine needs its Debian mirrors" in cut_off.stderr

    # a checkout that an ordinary user can read
    shutil.copytree(root / "root/casemate", root / "opt/c")
    user = in_host(bare_host, "setpriv", "--reuid=65534", "--clear-groups", "sh", "-c", "cd /opt/c && ./quickstart")
    assert user.returncode == 1
    assert "needs root" in user.stderr and user.stderr.count("\n") == 1

    release = root / "etc/os-release"
    release.unlink()
    release.write_text('ID=fedora\nVERSION_ID=44\nPRETTY_NAME="Fedora Linux 44"\n')
    other = in_host(bare_host, "casemate/quickstart", "--here", "--yes")
    assert other.returncode == 1
    assert "needs Debian 12 or 13; this is Fedora Linux 44" in other.stderr and other.stderr.count("\n") == 1
