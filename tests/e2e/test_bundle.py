"""A lock is made of the hosts' own sources; a bundle of it deploys a host without a network, if every bit is right."""

import json
import random
import subprocess

import pytest

from appliance.lab import manage
from tests.conftest import appliance, on_host

pytestmark = pytest.mark.lab


def run(host, *words):
    verb, *rest = words
    return appliance(verb, "-i", "inventories/lab", "--limit", host.name, *rest)


def test_a_lock_is_made_and_made_again_and_nothing_is_written_on_the_host(deployed_host, tmp_path):
    first, again = (tmp_path / name for name in ("first.lock", "again.lock"))
    # not all of Casemate's own: templates may still be made after the deploy
    look = "ls -laR --time-style=full-iso /etc/apt /var/lib/apt/lists /var/lib/dpkg/status; ls /var/lib/casemate"
    before = on_host(deployed_host, "sh", "-c", look)
    for path in (first, again):
        done = run(deployed_host, "lock", "--output", str(path), "-o", "json")
        assert done.returncode == 0, done.stderr
    assert first.read_bytes() == again.read_bytes()
    assert on_host(deployed_host, "sh", "-c", look) == before
    made = json.loads(done.stdout)
    assert made["platforms"]["debian-12/amd64"]["packages"] > 100
    check = run(deployed_host, "lock", "--output", str(first), "--check")
    assert check.returncode == 0, check.stdout
    first.write_text(first.read_text().replace("containerd:\n        version: 1", "containerd:\n        version: 2"))
    edited = run(deployed_host, "deploy", "--lock", str(first))
    assert edited.returncode == 2 and "was changed after it was made" in edited.stderr


@pytest.fixture(scope="module")
def bundle(deployed_host, tmp_path_factory):
    directory = tmp_path_factory.mktemp("bundle")
    lock = directory / "site.lock"
    made = run(deployed_host, "lock", "--output", str(lock))
    assert made.returncode == 0, made.stderr
    paths = [directory / "one.bundle", directory / "two.bundle"]
    for path in paths:
        built = appliance("bundle", "build", "--lock", str(lock), "--output", str(path))
        assert built.returncode == 0, built.stderr
    return paths


@pytest.mark.full
def test_built_twice_it_is_the_same(bundle):
    one, two = bundle
    assert one.read_bytes() == two.read_bytes()
    assert one.stat().st_size > 100 << 20


@pytest.mark.full
def test_apt_takes_its_repository_for_one(bundle, new_host):
    """With the key that it carries, and no trust given beforehand."""
    host = new_host("apt")
    script = (
        "mkdir /srv/b && cd /srv/b && tar -x && "
        "echo 'deb [signed-by=/srv/b/key.asc] file:/srv/b/apt/debian-12-amd64 ./' > /etc/apt/sources.list && "
        "rm -rf /etc/apt/sources.list.d/* && apt-get -q update 2>&1 && apt-cache policy containerd"
    )
    with bundle[0].open("rb") as file:
        done = subprocess.run(manage.shell(host.name, ["sh", "-c", script]), stdin=file, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "file:/srv/b" in done.stdout and "W:" not in done.stdout


@pytest.mark.full
def test_a_host_whose_network_is_cut_is_deployed_from_it(bundle, new_host):
    host = new_host("off")
    on_host(host, "ip", "link", "set", "eth0", "down")
    done = run(host, "deploy", "--bundle", str(bundle[0]))
    assert done.returncode == 0, done.stdout + done.stderr
    status = json.loads(run(host, "status", "-o", "json").stdout)["hosts"][0]
    assert [pod["ready"] for pod in status["pods"]] == [True]
    again = run(host, "deploy", "--bundle", str(bundle[0]))
    assert again.returncode == 0 and " 0 changed" in again.stderr, again.stderr


@pytest.mark.full
def test_fifty_flipped_bits_are_noticed_before_a_host_is_touched_and_a_cut_file_is_called_so(bundle):
    path, spots = bundle[0], random.Random(50)
    size = path.stat().st_size
    for _ in range(50):
        place, bit = spots.randrange(size), 1 << spots.randrange(8)
        with path.open("r+b") as file:
            file.seek(place)
            (byte,) = file.read(1)
            file.seek(place)
            file.write(bytes([byte ^ bit]))
        told = appliance("bundle", "verify", str(path))
        with path.open("r+b") as file:
            file.seek(place)
            file.write(bytes([byte]))
        assert told.returncode == 1 and "damaged" in told.stderr, (place, bit, told.stderr)
    refused = appliance("deploy", "-i", "inventories/lab", "--bundle", str(path.with_suffix(".none")))
    assert refused.returncode == 1
    with path.open("r+b") as file:
        file.truncate(size // 3)
    cut = appliance("bundle", "verify", str(path))
    assert cut.returncode == 1 and "cut short" in cut.stderr and "forged" not in cut.stderr
