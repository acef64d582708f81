"""The files that a pod's volumes are made of, on the host."""

import os
import subprocess

import pytest

from appliance.node.pods import manifest, volumes
from appliance.node.pods.documents import ManifestError
from appliance.node.storage import declared


@pytest.fixture
def places(tmp_path):
    found = volumes.Places(tmp_path / "state", tmp_path / "memory", tmp_path / "pool")
    yield found
    volumes.remove("web", found)


def pod(*given, **spec):
    document = {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "labels": {"a": 'x"y', "b": "z"}},
        "spec": {"containers": [{"name": "main", "image": "i:1"}], "volumes": list(given), **spec},
    }  # fmt: skip
    assert manifest.check(document) == []
    return manifest.Pod(document, "x.yaml")


def load(kind, name, optional):
    if name == "gone" and not optional:
        raise ManifestError("gone.yaml", ["does not exist"])
    return {} if name == "gone" else {"a": b"1", "b": name.encode()}


def content(path):
    return {
        str(f.relative_to(path)): (f.read_bytes(), f.stat().st_mode & 0o777) for f in path.rglob("*") if f.is_file()
    }


@pytest.mark.parametrize(
    ("volume", "files"),
    [
        ({"configMap": {"name": "m"}}, {"a": (b"1", 0o644), "b": (b"m", 0o644)}),
        ({"secret": {"secretName": "s", "items": [{"key": "b", "path": "d/x", "mode": 0o400}]}},
         {"d/x": (b"s", 0o400)}),
        ({"secret": {"secretName": "gone", "optional": True}}, {}),
        ({"configMap": {"name": "m", "optional": True, "items": [{"key": "no", "path": "x"}]}}, {}),
        ({"downwardAPI": {"defaultMode": 0o440,
                          "items": [{"path": "l", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
         {"l": (b'a="x\\"y"\nb="z"', 0o440)}),
        ({"projected": {"defaultMode": 0o600, "sources": [
            {"configMap": {"name": "m", "items": [{"key": "a", "path": "c"}]}},
            {"secret": {"name": "s", "items": [{"key": "b", "path": "s", "mode": 0o400}]}}]}},
         {"c": (b"1", 0o600), "s": (b"s", 0o400)}),
    ],
)  # fmt: skip
def test_volumes_made_of_objects_have_their_files_and_modes(places, volume, files):
    paths = volumes.prepare(pod({"name": "v", **volume}), places, load)
    assert content(paths["v"]) == files
    assert paths["v"].is_relative_to(places.memory)  # nothing of it on a disk
    assert places.memory.joinpath("web").stat().st_mode & 0o777 == 0o700


def test_a_file_whose_key_has_gone_goes_too_and_the_others_are_not_touched(places):
    path = volumes.prepare(pod({"name": "v", "configMap": {"name": "m"}}), places, load)["v"]
    before = (path / "a").stat().st_mtime_ns
    volumes.prepare(pod({"name": "v", "configMap": {"name": "m"}}), places, lambda *_: {"a": b"1"})
    assert list(content(path)) == ["a"]
    assert (path / "a").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("volume", "message"),
    [
        ({"hostPath": {"path": "/no/such"}}, "DirectoryOrCreate"),
        ({"hostPath": {"path": "/etc", "type": "File"}}, "is not of type File"),
        ({"hostPath": {"path": "/etc/passwd/x", "type": "DirectoryOrCreate"}}, "Not a directory"),
        ({"persistentVolumeClaim": {"claimName": "no"}}, "declare it in storage_volumes"),
        ({"secret": {"secretName": "gone"}}, "gone.yaml: does not exist"),
        ({"configMap": {"name": "m", "items": [{"key": "no", "path": "x"}]}}, "has no key 'no'"),
    ],
)
def test_a_volume_that_cannot_be_is_an_error_with_its_name(places, volume, message):
    with pytest.raises(volumes.VolumeError, match=message) as caught:
        volumes.prepare(pod({"name": "v", **volume}), places, load)
    assert "volume 'v'" in str(caught.value)


def test_the_pods_volumes_are_closed_to_the_hosts_users(places):
    path = volumes.prepare(pod({"name": "v", "emptyDir": {}}), places)["v"]
    assert path.stat().st_mode & 0o777 == 0o777
    assert path.parents[1].stat().st_mode & 0o777 == 0o700


def test_a_claimed_volume_is_the_pools_and_a_link_there_is_not_followed(places):
    (places.pool / "data").mkdir(parents=True)
    (places.pool / "bad").symlink_to("/etc")
    given = {"name": "v", "persistentVolumeClaim": {"claimName": "data", "readOnly": True}}
    assert volumes.prepare(pod(given), places)["v"] == places.pool / "data"
    assert volumes.is_read_only(pod(given), "v")
    with pytest.raises(volumes.VolumeError, match="no volume 'bad'"):
        volumes.prepare(pod({"name": "v", "persistentVolumeClaim": {"claimName": "bad"}}), places)


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="changes owners and mounts, which is root's")


@as_root
def test_a_pool_that_is_not_mounted_is_the_reason_even_if_a_directory_lies_below(places, monkeypatch):
    (places.pool / "data").mkdir(parents=True, exist_ok=True)
    monkeypatch.setattr(declared, "load", lambda: declared.Declared(["/dev/vdb"], "1234"))
    with pytest.raises(volumes.VolumeError, match=r"the pool 1234 is not mounted at .*: its devices /dev/vdb"):
        volumes.prepare(pod({"name": "v", "persistentVolumeClaim": {"claimName": "data"}}), places)


def test_a_group_gets_the_volumes_and_no_link_leads_it_out(places, tmp_path):
    outside = tmp_path / "outside"
    outside.write_text("x")
    outside.chmod(0o600)
    data = places.pool / "data"
    (data / "d").mkdir(parents=True)
    (data / "d" / "f").write_text("x")
    (data / "d" / "f").chmod(0o700)
    (data / "link").symlink_to(outside)
    (data / "folder").symlink_to(tmp_path)
    claim = {"name": "p", "persistentVolumeClaim": {"claimName": "data"}}
    paths = volumes.prepare(
        pod(claim, {"name": "m", "configMap": {"name": "m", "defaultMode": 0o400}}, securityContext={"fsGroup": 4242}),
        places, load,
    )  # fmt: skip
    seen = {p: (p.stat().st_gid, oct(p.stat().st_mode & 0o7777)) for p in (data, data / "d", data / "d" / "f")}
    assert seen == {data: (4242, "0o2775"), data / "d": (4242, "0o2775"), data / "d" / "f": (4242, "0o760")}
    assert (paths["m"] / "a").stat().st_gid == 4242
    assert (paths["m"] / "a").stat().st_mode & 0o777 == 0o440
    assert (outside.stat().st_gid, outside.stat().st_mode & 0o777) == (0, 0o600)


@as_root
def test_memory_has_its_limit_is_kept_and_goes_with_the_pod(places):
    given = pod({"name": "v", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}})
    path = volumes.prepare(given, places)["v"]
    (path / "kept").write_bytes(bytes(1 << 19))
    with pytest.raises(OSError, match="No space left"):
        (path / "more").write_bytes(bytes(1 << 20))
    assert (volumes.prepare(given, places)["v"] / "kept").exists()
    volumes.remove("web", places)
    assert not path.exists()
    assert str(path) not in subprocess.run(["cat", "/proc/self/mounts"], capture_output=True, text=True).stdout


@as_root
def test_a_sub_path_is_bound_out_of_reach_and_follows_no_link(places, tmp_path):
    volume = tmp_path / "volume"
    volume.mkdir()
    (volume / "file").write_text("inside")
    (volume / "link").symlink_to("/etc")
    (volume / "loop").symlink_to("loop")
    for path in ("link", "link/cron.d", "loop", "loop/x"):
        with pytest.raises(volumes.VolumeError, match="symbolic link"):
            volumes.sub_path("web", volume, path, "c-0", places)
    with pytest.raises(volumes.VolumeError, match="Not a directory"):
        volumes.sub_path("web", volume, "file/x", "c-0", places)
    assert volumes.sub_path("web", volume, "file", "c-1", places).read_text() == "inside"
    made = volumes.sub_path("web", volume, "new/dir", "c-2", places)
    (volume / "new").rename(volume / "away")
    (volume / "new").symlink_to("/")  # what a pod does after our look does not matter any more
    (made / "x").touch()
    assert (volume / "away" / "dir" / "x").exists()
    assert volumes.sub_path("web", volume, "away/dir", "c-2", places) == made  # again, for the container's successor
