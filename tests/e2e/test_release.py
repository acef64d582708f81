"""A lock says exactly what is installed; a change of release is a transaction that pods do not notice."""

import json
import os
import signal

import pytest

from tests import images
from tests.conftest import appliance_process, on_host
from tests.e2e.release_site import WORK, Site, disagreements, until

pytestmark = [pytest.mark.lab, pytest.mark.full]


@pytest.fixture(scope="module")
def site(new_host, tmp_path_factory):
    host = new_host("r", release="bookworm")
    on_host(host, "sh", "-c", f"mkdir -p {WORK}; apt-get -qq update")
    return Site(host, tmp_path_factory.mktemp("locks"))


@pytest.fixture(scope="module")
def old(site):
    """The older lock, deployed, with five pods that serve."""
    lock = site.lock("old", old=True)
    done = site.run("deploy", "--lock", str(lock))
    assert done.returncode == 0, done.stdout + done.stderr
    images.load(site.host, "nginx")
    on_host(site.host, "mkdir", "-p", WORK)
    site.pods("up")
    return lock


@pytest.fixture(scope="module")
def new(site, old):
    return site.lock("new")


def test_the_same_sources_give_the_same_lock(site, old, new):
    assert site.lock("again").read_text() == new.read_text()
    assert set(site.older()) >= {"containerd", "qemu-system-x86", "linux-image-amd64"}


def test_what_the_lock_says_is_installed_and_a_second_deploy_changes_nothing(site, old):
    packages = {name: version for name, version in site.older().items() if not name.startswith("linux-")}
    assert site.versions(*packages) == packages
    again = site.run("deploy", "--lock", str(old))
    assert again.returncode == 0 and " 0 changed" in again.stderr, again.stderr
    checks = json.loads(site.run("doctor", "-o", "json").stdout)["hosts"][0]["checks"]
    assert [one["ok"] for one in checks if one["id"] == "drift"] == [True]


def test_old_new_rollback_new_and_no_pod_nor_client_notices(site, old, new):
    before = site.versions("containerd", "qemu-system-x86")
    engines = {"old": site.running_engine()}
    plan, there = site.plan(new), site.observe()
    assert {"containerd", "qemu-system-x86", "guest"} <= {one["component"] for one in plan}
    with site.served() as seen:
        up = site.run("upgrade", "--lock", str(new), "--yes", "--grace", "5")
        assert up.returncode == 0, up.stderr
        engines["new"] = site.running_engine()
        assert disagreements(plan, there, site.observe(), committed=True) == []
        assert site.versions("containerd", "qemu-system-x86") != before
        back = site.run("rollback", "--yes", "--grace", "5")
        assert back.returncode == 0, back.stderr
        assert site.versions("containerd", "qemu-system-x86") == before
        engines["back"] = site.running_engine()
        anew = site.run("upgrade", "--lock", str(new), "--yes", "--grace", "5")
        assert anew.returncode == 0, anew.stderr
        engines["anew"] = site.running_engine()
    assert seen["failed"] == []
    assert seen["same"]
    assert min(seen["asked"]) > 100
    assert engines["old"] == engines["back"] != engines["new"] == engines["anew"]


def test_restarting_microvms_gives_each_the_new_program_one_after_the_other(site, new, old):
    """The microVMs were started with the old QEMU, and still have it after the way to the new release."""
    if f"\nid: {site.release()}\n" not in old.read_text():
        back = site.run("rollback", "--yes", "--grace", "0")
        assert back.returncode == 0, back.stderr
    plan, there = site.plan(new, "--restart-pods"), site.observe()
    (pods,) = {tuple(one["pods"]) for one in plan if one["pods"]}
    assert set(pods) == {"default/demo", "default/served-18094", "default/served-18095"}
    assert all("restarted one by one" in one["words"] for one in plan if one["pods"])
    done = site.run("upgrade", "--lock", str(new), "--yes", "--grace", "5", "--restart-pods")
    assert done.returncode == 0, done.stderr
    assert disagreements(plan, there, site.observe(), committed=True) == []


# What goes wrong, and how: what the next version of a package does. Each has to end with what was there before.
BROKEN = {
    "a package that cannot be configured": {"postinst": "exit 1"},
    "an engine's configuration that does not parse": {
        "files": {"/etc/systemd/system/containerd.service.d/test.conf":
                  "[Service]\nExecStart=\nExecStart=/usr/bin/containerd --config /etc/casemate-test.toml",
                  "/etc/casemate-test.toml": "version = [2"},
        "postinst": "systemctl daemon-reload; systemctl restart containerd || true",
    },
    "a service that dies after 20 s": {
        "files": {"/etc/systemd/system/prometheus-node-exporter.service.d/test.conf":
                  "[Service]\nExecStart=\nExecStart=/bin/sh -c 'sleep 20; exit 1'"},
        "postinst": "systemctl daemon-reload; systemctl restart prometheus-node-exporter",
    },
    "a disk that is full while a package is unpacked": {"big": f"{WORK}/small/big"},
}  # fmt: skip
# What the scripts of these packages restart themselves, behind Casemate's back.
RESTARTED = {
    "an engine's configuration that does not parse": ("containerd",),
    "a service that dies after 20 s": ("prometheus-node-exporter",),
}
EXTRA = "base_packages: [casemate-test-part]"


@pytest.fixture(scope="module")
def first(site, new):
    """A release with a package of a test's in it."""
    on_host(site.host, "sh", "-c", f"mkdir -p {WORK}/small; mount -t tmpfs -o size=1m none {WORK}/small")
    site.package("casemate-test-part", "1")
    lock = site.lock("first", extra=EXTRA)
    done = site.run("upgrade", "--lock", str(lock), "--yes", "--grace", "0", extra=EXTRA)
    assert done.returncode == 0, done.stderr
    return lock


def now(site, lock, **more) -> dict:
    """What the host is like before the upgrade to this lock, and what is planned for it."""
    plan = site.plan(lock, extra=EXTRA)
    assert [one["packages"] for one in plan] == [{"casemate-test-part": ["1", "2"]}]
    return {"release": site.release(), "engine": site.running_engine(), "plan": plan, "there": site.observe()} | more


def judge(site, before, seen):
    """All is as it was, and well, and nothing more was touched than was planned."""
    assert disagreements(before["plan"], before["there"], site.observe(), committed=False,
                         besides=before.get("besides", ())) == []  # fmt: skip
    assert site.release() == before["release"]
    assert site.versions("casemate-test-part") == {"casemate-test-part": "1"}
    assert site.running_engine() == before["engine"]
    assert (seen["failed"], seen["same"]) == ([], True)
    assert on_host(site.host, "dpkg", "--audit") == ""
    until(lambda: site.run("doctor").returncode == 0, 120)  # Prometheus asks the engine twice a minute
    assert on_host(site.host, "sh", "-c", "ls /var/lib/casemate/transaction 2>&1 || true").count("No such") == 1


@pytest.mark.parametrize("what", BROKEN)
def test_a_release_that_breaks_something_is_rolled_back_and_says_so(site, first, what):
    site.package("casemate-test-part", "2", **BROKEN[what])
    lock = site.lock("broken", extra=EXTRA)
    before = now(site, lock, besides=RESTARTED.get(what, ()))
    with site.served() as seen:
        done = site.run("upgrade", "--lock", str(lock), "--yes", extra=EXTRA)
    assert done.returncode == 5, done.stderr
    assert "rolled back" in done.stderr
    judge(site, before, seen)
    assert site.last_change()["outcome"] == "rolled back"


def test_a_run_that_is_killed_has_its_host_go_back_by_itself(site, first):
    site.package("casemate-test-part", "2", postinst="sleep 5")
    lock = site.lock("killed", extra=EXTRA)
    before = now(site, lock)
    with site.served() as seen:
        run = appliance_process("upgrade", "-i", "inventories/lab", "-i", str(site.directory / "extra.yml"),
                                "--limit", site.host.name, "--lock", str(lock), "--yes")  # fmt: skip
        until(lambda: "part 2" in part(site))
        os.kill(run.pid, signal.SIGKILL)
        run.wait()
        until(lambda: on_host(site.host, "sh", "-c", "ls -d /var/lib/casemate/transaction || true") == "")
    judge(site, before, seen)
    told = site.run("status")
    assert "was rolled back" in told.stdout and "was not heard of" in told.stdout, told.stdout


def test_a_reboot_in_the_middle_ends_in_the_release_before(site, first):
    before = site.release()
    site.package("casemate-test-part", "2", postinst="sleep 5")
    lock = site.lock("rebooted", extra=EXTRA)
    run = appliance_process("upgrade", "-i", "inventories/lab", "-i", str(site.directory / "extra.yml"),
                            "--limit", site.host.name, "--lock", str(lock), "--yes")  # fmt: skip
    until(lambda: "part 2" in part(site))
    on_host(site.host, "systemctl", "reboot", check=False)
    run.wait(timeout=300)
    until(lambda: "running" in on_host(site.host, "systemctl", "is-system-running", check=False), 120)
    until(lambda: site.run("doctor").returncode == 0, 300)
    assert site.release() == before
    assert site.versions("casemate-test-part") == {"casemate-test-part": "1"}
    assert "started anew" in site.last_change()["reason"]


def part(site) -> str:
    shown = ["dpkg-query", "--show", "--showformat=part ${Version} ${db:Status-Abbrev}", "casemate-test-part"]
    return on_host(site.host, *shown, check=False)
