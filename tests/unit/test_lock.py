"""The lock: what it is made of, that it says so itself, and what is refused."""

import copy

import pytest

from appliance import lock
from appliance.errors import CasemateError, UsageError

DIGEST = "a" * 64


def package(version="1.0-1", sha256=DIGEST):
    return {"version": version, "size": 10, "sha256": sha256, "url": f"http://mirror/pool/x_{version}.deb"}


def answer(name="one", platform="debian-12/amd64", **changes):
    told = {
        "name": name,
        "platform": platform,
        "asked": ["containerd"],
        "host": ["containerd", "libc6"],
        "guest": ["busybox-static"],
        "kernel": ["linux-image-6.1.0-1-amd64"],
        "packages": {
            name: package() for name in ("libc6", "containerd", "busybox-static", "linux-image-6.1.0-1-amd64")
        },
        "artifacts": [],
        "images": [],
    }
    return told | changes


def test_equal_answers_give_equal_locks_whatever_their_order():
    one, other = answer(), answer("two")
    other["packages"] = dict(reversed(other["packages"].items()))
    assert lock.dump(lock.make([one, other], {})) == lock.dump(lock.make([other, one], {}))


def test_a_lock_is_read_back_as_it_was_written(tmp_path):
    made = lock.make([answer(artifacts=[
        {"name": "edgecore", "version": "v1.23.1", "url": "http://x/y.tar.gz", "checksum": "sha512:ab", "size": 0}
    ])], {"docker.io/library/nginx:1.27": f"sha256:{DIGEST}"})  # fmt: skip
    (tmp_path / "l").write_text(lock.dump(made))
    assert lock.read(tmp_path / "l") == made
    assert "edgecore-v1.23.1" in made["artifacts"]


def test_hosts_of_one_platform_that_ask_for_different_packages_keep_to_their_own():
    more = answer("two", asked=["containerd", "mosquitto"], host=["containerd", "libc6", "mosquitto"])
    more["packages"]["mosquitto"] = package()
    found = lock.make([answer(), more], {})["platforms"]["debian-12/amd64"]
    assert found["selections"] == [
        {"asked": ["containerd"], "packages": ["containerd", "libc6"]},
        {"asked": ["containerd", "mosquitto"], "packages": ["containerd", "libc6", "mosquitto"]},
    ]


def test_hosts_that_know_different_packages_are_named():
    other = answer("two")
    other["packages"]["libc6"] = package("1.0-2", "b" * 64)
    with pytest.raises(CasemateError, match=r"libc6: one has 1\.0-1 .*two has 1\.0-2") as caught:
        lock.make([answer(), other], {})
    assert "--limit" in caught.value.cure


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text.replace("1.0-1", "1.0-2", 1), "was changed after it was made"),
        (lambda text: text.replace("casemate_lock: 1", "casemate_lock: 2"), "casemate_lock"),
        (lambda text: text.replace(DIGEST, "xyz", 1), "xyz"),
        (lambda text: text.replace("release:", "releas:"), "release"),
        (lambda text: text[: len(text) // 2], "platforms|packages|required|changed|YAML"),
        (lambda text: "", "the file"),
        (lambda text: "a: [", "no YAML"),
    ],
)
def test_what_is_no_lock_is_refused_with_its_place(tmp_path, change, said):
    path = tmp_path / "x.lock"
    path.write_text(change(lock.dump(lock.make([answer()], {}))))
    with pytest.raises(UsageError, match=said) as caught:
        lock.read(path)
    assert caught.value.place == str(path)
    assert "appliance lock" in caught.value.cure or "make the lock again" in caught.value.cure


def test_a_platform_that_the_lock_was_not_made_for_is_named():
    with pytest.raises(CasemateError, match="debian-13/amd64, only for debian-12/amd64"):
        lock.for_platform(lock.make([answer()], {}), "debian-13/amd64")


def test_differences_name_what_came_went_and_changed():
    old = lock.make([answer()], {"a:1": f"sha256:{DIGEST}"})
    changed = answer()
    changed["packages"]["containerd"] = package("1.0-2", "c" * 64)
    del changed["packages"]["libc6"]
    new = lock.make([changed], {})
    found = {(one["kind"], one["name"]): (one["from"], one["to"]) for one in lock.differences(old, new)}
    assert found == {
        ("package", "containerd"): ("1.0-1", "1.0-2"),
        ("package", "libc6"): ("1.0-1", None),
        ("image", "a:1"): (f"sha256:{DIGEST}", None),
    }
    assert lock.differences(old, copy.deepcopy(old)) == []
