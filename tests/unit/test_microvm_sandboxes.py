"""Who owns a sandbox's run state, what is swept, and how many guests start at once."""

import os
import subprocess
import sys
import threading
import time

import pytest

from appliance.node.microvm import mounts, sandboxes
from appliance.node.microvm.sandboxes import Sandbox
from appliance.node.microvm.settings import RuntimeFailure
from appliance.node.microvm.spec import Volume


@pytest.fixture
def run(tmp_path, monkeypatch):
    """An empty /run/casemate/microvm; nothing is mounted."""
    monkeypatch.setattr(sandboxes, "RUN", tmp_path / "run")
    monkeypatch.setattr(sandboxes, "CONTAINERS", tmp_path / "run/.containers")
    monkeypatch.setattr(sandboxes, "DISKS", tmp_path / "disks")
    monkeypatch.setattr(sandboxes, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(sandboxes.os, "chown", lambda *_: None)
    (tmp_path / "empty").write_bytes(b"disk")
    monkeypatch.setattr(mounts, "bind", lambda *_, **__: None)
    monkeypatch.setattr(mounts, "tmpfs", lambda *_: None)
    return tmp_path / "run"


def jail(tmp_path, name):
    """What runc keeps of a jail."""
    state = tmp_path / "runc" / name
    state.mkdir(parents=True)
    (state / "state.json").touch()
    return state


def killed(run, name, state):
    """A sandbox as a `create` that was killed leaves it: with everything, and no process that holds it."""
    sandbox = Sandbox(name)
    sandbox.make(state, run.parent / "empty")
    os.close(sandbox._lock)
    (sandbox.share / f"{name}-c").mkdir()
    (run / ".containers").mkdir(exist_ok=True)
    (run / ".containers" / f"{name}-c").symlink_to(f"../{name}")
    return sandbox


def test_a_new_sandbox_sweeps_what_killed_calls_left_and_nothing_else(run, tmp_path):
    dead = killed(run, "dead", tmp_path / "runc/dead")
    alive = killed(run, "alive", jail(tmp_path, "alive"))
    with subprocess.Popen(
        [sys.executable, "-c", "import fcntl, os, sys\nfcntl.flock(os.open(sys.argv[1], 0), 2); print(flush=True)\n"
         "sys.stdin.read()", str(killed(run, "coming", tmp_path / "runc/coming").directory)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as holder:  # fmt: skip
        holder.stdout.readline()
        (tmp_path / "disks/before-the-host-went-down").touch()
        Sandbox("new").make(tmp_path / "runc/new", tmp_path / "empty")
        assert sorted(os.listdir(run)) == [".containers", ".making", "alive", "coming", "new"]
        assert sorted(os.listdir(run / ".containers")) == ["alive-c", "coming-c"]
    assert alive.share.is_dir() and not dead.directory.exists()
    assert sorted(os.listdir(tmp_path / "disks")) == ["alive", "coming", "new"]
    assert (tmp_path / "disks/new").read_bytes() == b"disk"


def test_containers_with_the_same_volume_share_one_export_which_goes_with_the_last(run, tmp_path, monkeypatch):
    sandbox = killed(run, "one", jail(tmp_path, "one"))
    shown = []
    monkeypatch.setattr(mounts, "bind", lambda source, target, *_, **__: shown.append(target))
    monkeypatch.setattr(mounts, "below", lambda path: [path] if str(path) in shown else [])
    monkeypatch.setattr(mounts, "unmount_below", lambda path: None)
    volume, other = tmp_path / "volume", tmp_path / "other"
    volume.mkdir()
    other.touch()
    volumes = [Volume(str(s), sandboxes.export_name(str(s), False, True), False, True) for s in (volume, other)]
    sandbox.show("a", "/", volumes)
    sandbox.show("b", "/", volumes[:1])
    assert shown.count(str(sandbox.volumes / volumes[0].name)) == 1
    sandbox.hide("a")
    assert os.listdir(sandbox.volumes) == [volumes[0].name]
    sandbox.hide("b")
    assert os.listdir(sandbox.volumes) == []


def test_a_volume_that_was_replaced_or_is_read_only_is_another_export(tmp_path):
    (tmp_path / "v").mkdir()
    (tmp_path / "new").mkdir()
    first = sandboxes.export_name(str(tmp_path / "v"), False, True)
    assert first != sandboxes.export_name(str(tmp_path / "v"), True, True)
    (tmp_path / "v").rename(tmp_path / "old")
    (tmp_path / "new").rename(tmp_path / "v")
    assert first != sandboxes.export_name(str(tmp_path / "v"), False, True)


def test_an_id_in_use_is_refused_and_its_owner_untouched(run, tmp_path):
    owner = killed(run, "one", jail(tmp_path, "one"))
    second = Sandbox("one")
    with pytest.raises(RuntimeFailure, match="exists already"):
        second.make(tmp_path / "runc/one", tmp_path / "empty")
    second.remove()
    assert owner.share.is_dir()


def test_control_groups_that_a_killed_runc_has_left_go_and_those_in_use_stay(run, tmp_path):
    sandbox = killed(run, "one", tmp_path / "runc/one")
    groups = [tmp_path / "cgroup" / name for name in ("cpu/k8s/one", "pids/k8s/one", "k8s/c", "k8s/other", "k8s/used")]
    for group in groups:
        group.mkdir(parents=True)
    (groups[-1] / "process").touch()
    for name, path in (
        ("one", "/k8s/one"),
        ("c", "/k8s/c"),
        ("d", "/k8s/used"),
        ("e", "system.slice:cri:e"),
        ("f", ""),
    ):
        (sandbox.cgroups / name).write_text(path)
    for container in "cdef":
        sandbox.hide(container)
    assert [group.exists() for group in groups] == [True, True, False, True, True]
    sandbox.remove()
    assert [group.exists() for group in groups] == [False, False, False, True, True]


def test_two_pods_never_have_one_user(run, tmp_path, monkeypatch):
    monkeypatch.setattr(sandboxes, "UIDS", 3)
    users = {killed(run, name, jail(tmp_path, name)).uid for name in ("a", "b", "c")}
    assert users == {sandboxes.FIRST_UID + n for n in range(3)}


@pytest.mark.parametrize("name", ["../x", "", ".", "..", "a/b", ".hidden", "a b", "a\n", "ä"])
def test_a_name_that_is_no_id_never_becomes_a_path(name):
    with pytest.raises(RuntimeFailure, match="is no id of a container"):
        Sandbox(name)


def test_no_more_guests_start_at_once_than_there_are_processors(run, monkeypatch):
    run.mkdir()
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    lock, now, most = threading.Lock(), 0, 0

    def start():
        nonlocal now, most
        with sandboxes.starting():
            with lock:
                now += 1
                most = max(most, now)
            time.sleep(0.02)
            with lock:
                now -= 1

    threads = [threading.Thread(target=start) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (now, most) == (0, 2)
