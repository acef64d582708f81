"""An upgrade whose run and host lose each other: a cable that is pulled, a machine that sleeps. The host is reached by
ssh here, as a real one is."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from appliance.errors import EXIT_FAILED, EXIT_ROLLED_BACK, EXIT_UNREACHABLE
from appliance.lab import state
from tests.conftest import ROOT, appliance, on_host
from tests.e2e.release_site import WORK, Site, disagreements, until

pytestmark = [pytest.mark.lab, pytest.mark.full]
PART = "casemate-test-part"


class SshSite(Site):
    """A site whose host is reached by ssh, over the lab's network."""

    def __init__(self, host, directory: Path):
        super().__init__(host, directory)
        key = directory / "key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
        on_host(host, "sh", "-c", "apt-get -qq update && apt-get -qq install openssh-server >/dev/null 2>&1")
        on_host(host, "sh", "-c", "mkdir -pm 700 ~/.ssh; cat > ~/.ssh/authorized_keys",
                stdin=key.with_suffix(".pub").read_text())  # fmt: skip
        known = json.loads(state.inventory_path().read_text())["appliance"]["hosts"][host.name]
        kept = {name: value for name, value in known.items() if not name.startswith("ansible_")}
        by_ssh = {"ansible_host": host.ip, "ansible_user": "root", "ansible_ssh_private_key_file": str(key),
                  "ansible_ssh_common_args": f"-o UserKnownHostsFile={directory}/known "
                                             "-o StrictHostKeyChecking=accept-new"}  # fmt: skip
        self.inventory = directory / "site.yml"
        variables = {"base_packages": [PART]}
        self.inventory.write_text(
            yaml.safe_dump({"appliance": {"vars": variables, "hosts": {host.name: kept | by_ssh}}})
        )

    def run(self, *words: str, extra: str = "", timeout: float = 900):
        verb, *rest = words
        return appliance(verb, "-i", str(self.inventory), *rest, timeout=timeout)

    def begin(self, lock: Path):
        """An upgrade, once its package is being installed."""
        argv = [sys.executable, "-m", "appliance", "upgrade", "-i", str(self.inventory), "--lock", str(lock), "--yes",
                "--grace", "0"]  # fmt: skip
        with (self.directory / "said").open("w") as said:
            run = subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
        shown = ["dpkg-query", "--show", "--showformat=part ${Version}", PART]
        until(lambda: "part 2" in on_host(self.host, *shown, check=False))
        return run

    def end(self, run) -> tuple[int, str]:
        """The exit code and what was said."""
        run.wait(timeout=300)
        return run.returncode, (self.directory / "said").read_text()

    def cable(self, there: bool) -> None:
        subprocess.run(["ip", "link", "set", self.host.interface, "up" if there else "down"], check=True)


@pytest.fixture(scope="module")
def site(new_host, tmp_path_factory):
    host = new_host("cut")
    on_host(host, "mkdir", "-p", WORK)
    found = SshSite(host, tmp_path_factory.mktemp("cut"))
    found.package(PART, "1")
    done = found.run("deploy", "--lock", str(found.lock("first")))
    assert done.returncode == 0, done.stdout + done.stderr
    yield found
    found.cable(True)


@pytest.fixture
def before(site):
    """The lock of the next release, whose package takes its time, what is planned for it, and what is there."""
    site.package(PART, "2", postinst="sleep 20")
    lock = site.lock("second")
    return {"lock": lock, "plan": site.plan(lock), "there": site.observe(), "release": site.release()}


def judge(site, before, reason: str) -> None:
    """All is as it was, nothing else was touched, and status tells why."""
    assert site.release() == before["release"]
    assert disagreements(before["plan"], before["there"], site.observe(), committed=False) == []
    assert reason in site.last_change()["reason"]
    told = site.run("status")
    assert "was rolled back" in told.stdout and reason in told.stdout, told.stdout
    until(lambda: site.run("doctor").returncode == 0, 120)


def over(site) -> bool:
    return on_host(site.host, "sh", "-c", "ls -d /var/lib/casemate/transaction || true") == ""


def test_a_cable_that_is_pulled_has_the_host_go_back_and_the_run_end(site, before):
    run = site.begin(before["lock"])
    site.cable(False)
    try:
        code, said = site.end(run)
        assert code == EXIT_UNREACHABLE, said
        until(lambda: over(site))
    finally:
        site.cable(True)
    judge(site, before, "was not heard of")


def test_a_run_that_slept_finds_that_its_host_went_back_and_changes_nothing_more(site, before):
    """The lid of a laptop: our processes stand still, those on the host do not."""
    run = site.begin(before["lock"])
    asleep = [run.pid, *children(run.pid), *(far for near in children(run.pid) for far in children(near))]
    for pid in asleep:
        os.kill(pid, signal.SIGSTOP)
    try:
        until(lambda: over(site))
        time.sleep(2)
    finally:
        for pid in asleep:
            os.kill(pid, signal.SIGCONT)
    code, said = site.end(run)
    assert code == EXIT_ROLLED_BACK and "meanwhile" in said, said
    judge(site, before, "was not heard of")


def test_a_second_upgrade_is_refused_and_leaves_the_first_alone(site, before):
    first = site.begin(before["lock"])
    second = site.run("upgrade", "--lock", str(before["lock"]), "--yes", "--grace", "0")
    assert second.returncode == EXIT_FAILED and "another run holds this host" in second.stderr, second.stderr
    assert "refused" in second.stderr and "rolled back" not in second.stderr
    code, said = site.end(first)
    assert code == 0, said
    assert disagreements(before["plan"], before["there"], site.observe(), committed=True) == []
    back = site.run("rollback", "--yes", "--grace", "0")
    assert back.returncode == 0, back.stderr


def test_a_cable_that_is_out_for_a_moment_does_no_harm(site, before):
    run = site.begin(before["lock"])
    site.cable(False)
    time.sleep(10)
    site.cable(True)
    code, said = site.end(run)
    assert code == 0, said
    assert site.versions(PART) == {PART: "2"}
    assert disagreements(before["plan"], before["there"], site.observe(), committed=True) == []


def children(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(word) for file in listed for word in file.read_text().split()]
