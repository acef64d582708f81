"""What the lab remembers: addresses, names, one change at a time, and nothing left at the end."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from appliance.errors import CasemateError, UsageError
from appliance.lab import manage, network, state
from appliance.lab.state import Host

PROJECT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def lab(tmp_path, monkeypatch):
    """A lab directory of its own."""
    monkeypatch.setenv("CASEMATE_LAB_DIR", str(tmp_path / "lab"))
    monkeypatch.setenv("CASEMATE_LAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "lab"


class Driver:
    """Stands for nspawn and QEMU: remembers what it was asked."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        self.fails_at: str | None = None

    def up(self, host: Host, progress) -> None:
        self.calls.append(("up", host.name))
        if host.name == self.fails_at:
            raise CasemateError("no disk")
        host.vars = {"ansible_host": host.ip}

    def down(self, host: Host) -> None:
        self.calls.append(("down", host.name))

    def state(self, host: Host) -> str:
        return "running"


@pytest.fixture
def driver(monkeypatch):
    """A lab without machines: the network and the hosts are only written down."""
    made = Driver()
    monkeypatch.setattr(manage, "driver", lambda kind: made)
    monkeypatch.setattr(manage, "check_machine", lambda kind: None)
    monkeypatch.setattr(network, "up", lambda: made.calls.append(("network", "up")))
    monkeypatch.setattr(network, "down", lambda: made.calls.append(("network", "down")))
    return made


def host(name: str, index: int) -> Host:
    return Host(name, "nspawn", "bookworm", index, 1024)


def test_a_host_is_read_back_as_it_was_written():
    made = host("a", 3)
    made.vars = {"ansible_host": made.ip}
    state.save(made)
    assert state.load("a") == made
    assert state.load("b") is None


def test_an_index_is_an_address_and_a_short_interface_name():
    first, last = host("a", 1), host("b", state.LAST_ADDRESS - state.FIRST_ADDRESS + 1)
    assert first.ip == f"10.87.0.{state.FIRST_ADDRESS}"
    assert last.ip == f"10.87.0.{state.LAST_ADDRESS}"
    assert len(last.interface) <= 15


def test_the_lowest_free_index_is_used_again():
    assert state.free_index([]) == 1
    assert state.free_index([host("a", 1), host("c", 3)]) == 2
    assert state.free_index([host("c", 3), host("b", 2), host("a", 1)]) == 4


def test_a_full_network_is_an_error_that_names_it():
    everyone = [host(f"h{n}", n) for n in range(1, state.LAST_ADDRESS - state.FIRST_ADDRESS + 2)]
    with pytest.raises(CasemateError, match=r"10\.87\.0\.0/24 is full"):
        state.free_index(everyone)


def test_a_directory_whose_record_is_not_written_yet_is_no_host(lab):
    state.save(host("a", 1))
    (lab / "hosts/half").mkdir()
    assert [h.name for h in state.load_all()] == ["a"]


def in_another_process(program: str) -> subprocess.CompletedProcess:
    text = f"import os, time\nfrom appliance.lab import state\n{program}"
    return subprocess.run([sys.executable, "-c", text], cwd=PROJECT, capture_output=True, text=True, check=False)


def test_a_second_change_waits_and_is_then_refused_naming_the_first():
    with state.locked(print):
        second = in_another_process("with state.locked(print, patience=0.5): pass")
    assert second.returncode != 0
    assert f"(pid {os.getpid()}); waiting" in second.stdout
    assert f"(pid {os.getpid()})" in second.stderr


def test_a_second_change_goes_on_when_the_first_ends():
    told = []
    program = "with state.locked(print):\n  print('held', flush=True)\n  time.sleep(0.5)"
    text = f"import time\nfrom appliance.lab import state\n{program}"
    first = subprocess.Popen([sys.executable, "-c", text], cwd=PROJECT, stdout=subprocess.PIPE, text=True)
    assert first.stdout.readline() == "held\n"
    with state.locked(told.append, patience=30):
        assert first.wait(5) == 0
    first.stdout.close()
    assert len(told) == 1


def test_the_lock_of_a_killed_change_is_free():
    killed = in_another_process("with state.locked(print): os.kill(os.getpid(), 9)")
    assert killed.returncode == -9
    with state.locked(print, patience=0):
        pass


def test_a_lock_that_was_removed_with_the_lab_is_not_the_lock(lab):
    """`lab down` removes the directory while another waits for the lock in it; two must never hold different files."""
    with state.locked(print, patience=0):
        state.remove_if_empty()
    with state.locked(print, patience=0):
        assert (lab / "lock").read_text() == str(os.getpid())


def test_the_machines_own_settings_are_remembered_once_and_given_back_once():
    state.remember_before({"net.ipv4.ip_forward": "0"})
    state.remember_before({"net.ipv4.ip_forward": "1"})
    assert state.take_before() == {"net.ipv4.ip_forward": "0"}
    assert state.take_before() == {}


@pytest.mark.parametrize("name", ["", "Lab", "1a", "a_b", "-a", "a" * 21, "a/b", "../a", "a b"])
def test_a_name_that_is_no_host_name_is_refused_before_anything_is_made(driver, lab, name):
    with pytest.raises(UsageError) as caught:
        manage.up(["good", name])
    assert caught.value.exit_code == 2
    assert driver.calls == []
    assert not lab.exists()


def test_hosts_are_listed_in_an_inventory_that_ansible_can_read(driver, lab):
    manage.up(["b", "a"])
    written = json.loads((lab / "hosts.json").read_text())
    assert written == {
        "appliance": {"hosts": {"b": {"ansible_host": "10.87.0.11"}, "a": {"ansible_host": "10.87.0.12"}}}
    }


def test_making_a_host_again_keeps_its_address(driver):
    manage.up(["a", "b"])
    manage.down(["a"])
    manage.up(["b", "c"])
    assert {h.name: h.index for h in state.load_all()} == {"b": 2, "c": 1}


def test_another_kind_or_release_of_a_host_that_exists_is_refused(driver):
    manage.up(["a"])
    with pytest.raises(UsageError, match="exists already, as nspawn bookworm"):
        manage.up(["a"], release="trixie")
    with pytest.raises(UsageError, match="not qemu bookworm"):
        manage.up(["a"], kind="qemu")


def test_a_host_that_failed_half_way_is_on_record_so_that_it_can_be_removed(driver, lab):
    driver.fails_at = "b"
    with pytest.raises(CasemateError, match="no disk"):
        manage.up(["a", "b"])
    assert [h.name for h in state.load_all()] == ["a", "b"]
    manage.down()
    assert ("down", "b") in driver.calls
    assert not lab.exists()


def test_with_the_last_host_the_network_and_the_directory_go(driver, lab):
    manage.up(["a", "b"])
    assert manage.down(["a"]) == ["a"]
    assert ("network", "down") not in driver.calls
    assert manage.down() == ["b"]
    assert driver.calls[-1] == ("network", "down")
    assert not lab.exists()


def test_a_name_that_is_not_there_removes_nothing(driver):
    manage.up(["a"])
    with pytest.raises(UsageError, match="no lab host z"):
        manage.down(["a", "z"])
    assert [h.name for h in state.load_all()] == ["a"]


def test_there_being_no_lab_is_no_error():
    assert manage.down() == []
    assert manage.listing() == []


def test_a_listing_has_the_documented_keys(driver):
    manage.up(["a"])
    assert manage.listing() == [
        {"name": "a", "kind": "nspawn", "release": "bookworm", "ip": "10.87.0.11", "state": "running"}
    ]


def test_without_root_the_lab_says_so(monkeypatch):
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(CasemateError, match="needs root"):
        manage.check_machine("nspawn")


def test_missing_programs_are_named_as_packages(monkeypatch):
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("shutil.which", lambda program: None if program == "nft" else f"/usr/bin/{program}")
    with pytest.raises(CasemateError) as caught:
        manage.check_machine("nspawn")
    assert caught.value.cure == "apt-get install nftables"
