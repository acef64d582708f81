"""Templates: what names them, and what makes one unfit for use."""

import hashlib
import json
import os

import pytest

from appliance.node.microvm import image, template
from appliance.node.microvm.settings import Settings, Size

SIZE = Size("s", 256, 1, template=True)
CONTENT = {"memory": b"saved memory", "devices": b"saved devices"}


def test_a_template_is_named_by_all_it_depends_on(tmp_path):
    one = image.Image("key", tmp_path, "6.1")
    base = template.key(one, Size("s", 256, 1), "tcg", "q1")
    others = {
        template.key(image.Image("other", tmp_path, "6.1"), Size("s", 256, 1), "tcg", "q1"),
        template.key(one, Size("s", 512, 1), "tcg", "q1"),
        template.key(one, Size("s", 256, 2), "tcg", "q1"),
        template.key(one, Size("s", 256, 1), "kvm", "q1"),
        template.key(one, Size("s", 256, 1), "tcg", "q2"),
    }
    assert len(others) == 5 and base not in others
    assert template.key(one, Size("renamed", 256, 1), "tcg", "q1") == base


@pytest.fixture
def saved(tmp_path, monkeypatch):
    """A template's directory, and a function that looks for it: "" when it is good, else why it is not."""
    monkeypatch.setattr(template, "TEMPLATES", tmp_path)
    guest_image = image.Image("key", tmp_path, "6.1")
    directory = tmp_path / template.key(guest_image, SIZE, "tcg", "q")
    directory.mkdir()
    files = {}
    for name, content in CONTENT.items():
        (directory / name).write_bytes(content)
        sha256 = hashlib.sha256(content).hexdigest()
        files[name] = {"identity": template._identity(directory / name), "sha256": sha256}
    record(directory, files)
    return directory, lambda: template.find(guest_image, SIZE, "tcg", "q")[1], guest_image


def record(directory, files):
    (directory / "template.json").write_text(json.dumps({"files": files, "read_only": True}))


def write(file, content):
    """Write as a guest that broke out would, and set the times back."""
    before = os.stat(file)
    with open(file, "r+b") as stream:
        stream.write(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


DAMAGE = {
    "never made": (lambda d: (d / "template.json").unlink(), "none was made"),
    "its maker was killed": (lambda d: (d / "template.json").write_text('{"files"'), "none was made"),
    "memory written to": (lambda d: write(d / "memory", b"x"), "memory was written to"),
    "memory truncated": (lambda d: os.truncate(d / "memory", 3), "memory was written to"),
    "memory gone": (lambda d: (d / "memory").unlink(), "memory is missing"),
    "devices written to": (lambda d: write(d / "devices", b"x"), "devices was written to"),
}


@pytest.mark.parametrize(("damage", "why"), DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_template_is_not_used_and_it_is_told_why(saved, damage, why):
    directory, found, _ = saved
    assert found() == ""
    damage(directory)
    assert why in found()


@pytest.fixture
def rotten(saved, request):
    """The template with one file that changed on its disk, where no time stamp tells."""
    directory, _, _ = saved
    write(directory / request.param, b"x")
    files = json.loads((directory / "template.json").read_text())["files"]
    files[request.param]["identity"] = template._identity(directory / request.param)
    record(directory, files)
    return saved


@pytest.mark.parametrize("rotten", ["devices"], indirect=True)
def test_devices_that_rotted_are_noticed_at_every_start(rotten):
    assert "devices is not what was written" in rotten[1]()


@pytest.mark.parametrize("rotten", ["memory"], indirect=True)
def test_memory_that_rotted_is_noticed_when_it_is_verified_and_is_dropped(rotten):
    _, found, guest_image = rotten
    assert found() == ""
    assert template.drop_damaged(guest_image, SIZE, "tcg", "q") is True
    assert "was broken" in found()


def test_a_good_template_outlives_being_verified(saved):
    _, found, guest_image = saved
    assert template.drop_damaged(guest_image, SIZE, "tcg", "q") is False
    assert found() == ""


def test_a_host_that_boots_cold_has_no_templates():
    assert Settings(sizes=(SIZE,)).templates() == [SIZE]
    assert Settings(sizes=(SIZE,), start="cold").templates() == []
