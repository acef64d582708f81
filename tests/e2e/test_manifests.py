"""The manifests of tests/manifests on a deployed host: the good ones keep their promises under both runtimes, the wrong
ones are reported and disturb nobody."""

import re

import pytest

from tests import conformance, images
from tests.conftest import appliance, inside, on_host

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module", params=["bookworm", pytest.param("trixie", marks=pytest.mark.full)])
def host(request):
    """The shared host, and one of Debian 13; each with the manifests and the images that they name."""
    if request.param == "bookworm":
        found = request.getfixturevalue("deployed_host")
    else:
        found = request.getfixturevalue("new_host")("m", release="trixie")
        done = appliance("deploy", "--limit", found.name)
        assert done.returncode == 0, done.stdout + done.stderr
    images.load(found, "busybox", "python")
    on_host(found, "sh", "-c", "mkdir -p /tmp/casemate-test && cat > /tmp/casemate-test/manifests.json",
            stdin=conformance.packed())  # fmt: skip
    yield found
    on_host(found, "rm", "-r", "/tmp/casemate-test")


@pytest.mark.parametrize("handler", ["runc", "microvm"])
def test_good_ones_run_and_keep_their_promises(host, handler):
    """What a pod promises is looked at inside of it: by its own program, which fails otherwise."""
    found = inside(host, "manifests", "good", handler, timeout=900)
    assert found["unmet"] == {}
    assert len(found["ran"]) >= 20
    assert found["problems"] == []
    assert found["secrets_seen"] == []
    assert found["closed"] == ["0o700"]


def test_a_changed_object_replaces_the_pods_that_name_it(host):
    assert inside(host, "manifests", "changed") == {
        "config_map": ["by-volume"],
        "content": "changed",
        "empty_again": True,
        "secret": ["by-variable", "by-volume"],  # since the first of the two changes
        "left": [],
    }


def test_a_private_image_is_pulled_with_the_pods_secret_and_not_without(host):
    found = inside(host, "manifests", "pulled")
    assert re.search("401|authorization", found.pop("without"))
    assert found == {"secrets_seen": [], "left": []}


def test_wrong_ones_are_reported_by_doctor_and_leave_the_others_alone(host):
    found = inside(host, "manifests", "refused")
    wrong = conformance.files("bad", "hostile")
    unsaid = {path.name: said for path in wrong if conformance.expected(path) not in (said := found["told"][path.name])}
    assert unsaid == {}
    unsaid = {name: found["told"].get(name) for name, said in conformance.MADE.items()
              if not re.search(said, found["told"].get(name) or "")}  # fmt: skip
    assert unsaid == {}
    assert found["unusable"] == len(wrong) + len(conformance.MADE)
    assert found["witness_untouched"]
    assert found["witness_outlives_its_manifest"]
    assert set(found["pods"]) <= {"witness", "demo"}
    assert found["left"] == []


def test_plan_refuses_every_bad_one_of_an_inventory_at_once_with_file_and_key(tmp_path):
    """No lab host is needed: none is touched."""
    site, lines = (
        tmp_path / "site.yml",
        ["appliance:", "  hosts: {edge1: {ansible_host: 192.0.2.11}}", "  vars:", "    pods:"],
    )
    bad = conformance.files("bad")
    for path in bad:
        lines += ["      -", *("        " + line for line in path.read_text().splitlines())]
    site.write_text("\n".join(lines) + "\n")
    done = appliance("plan", "-i", str(site))
    assert done.returncode == 2
    for number, path in enumerate(bad):
        key = conformance.expected(path).partition(": ")[0]
        assert re.search(
            rf"{re.escape(str(site))}:\d+: appliance\.vars\.pods\[{number}\]\.{re.escape(key)}: ", done.stderr
        ), key
