"""A clock that jumps in the middle of an upgrade. A lab host of the other kind shares this machine's clock; this one,
with a kernel and a clock of its own, is emulated and takes a quarter of an hour to deploy."""

import pytest

from appliance.errors import EXIT_ROLLED_BACK
from tests.conftest import on_host
from tests.e2e.release_site import WORK, Site, disagreements, until

pytestmark = [pytest.mark.lab, pytest.mark.full]
PART = "casemate-test-part"
# Nothing here is about microVMs, which this host would emulate in its emulation.
EXTRA = (
    f"base_packages: [{PART}]\nengine_default_handler: runc\npods_demo: false\n"
    "microvm_sizes: [{name: small, memory_mib: 256, vcpus: 1}]"
)
SECONDS = 5400


@pytest.fixture(scope="module")
def site(new_host, tmp_path_factory):
    host = new_host("ck", kind="qemu", release="trixie")
    on_host(host, "sh", "-c", f"mkdir -p {WORK}; apt-get -qq update")
    found = Site(host, tmp_path_factory.mktemp("clock"))
    found.package(PART, "1")
    done = found.run("deploy", "--lock", str(found.lock("first", extra=EXTRA)), extra=EXTRA, timeout=SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr
    return found


@pytest.mark.parametrize("by", ["+3 days", "-3 days"])
def test_a_host_whose_clock_jumps_while_it_is_rolled_back_is_what_it_was(site, by):
    before, seconds = upgrade_to(site, f"{by} and broken", f'date -s "{by}"; exit 1')
    plan, there = before
    done = site.run("upgrade", "--lock", str(site.directory / f"{by} and broken.lock"), "--yes", extra=EXTRA,
                    timeout=SECONDS)  # fmt: skip
    assert done.returncode == EXIT_ROLLED_BACK, done.stderr
    assert abs(clock(site) - seconds) > 2 * 86400
    assert disagreements(plan, there, site.observe(), committed=False) == []
    assert site.versions(PART) == {PART: "1"}
    until(lambda: site.run("doctor", timeout=SECONDS).returncode == 0, 600)


def test_a_clock_that_jumps_alone_is_no_reason_to_go_back(site):
    (plan, there), seconds = upgrade_to(site, "jump", 'date -s "+3 days"')
    done = site.run("upgrade", "--lock", str(site.directory / "jump.lock"), "--yes", extra=EXTRA, timeout=SECONDS)
    assert done.returncode == 0, done.stderr
    assert clock(site) - seconds > 2 * 86400
    assert site.versions(PART) == {PART: "2"}
    assert disagreements(plan, there, site.observe(), committed=True) == []


def upgrade_to(site, name: str, postinst: str):
    """A lock in which a package does this when it is configured; what is planned for it and what is there, the time."""
    site.package(PART, "2", postinst=postinst)
    lock = site.lock(name, extra=EXTRA)
    return (site.plan(lock, extra=EXTRA), site.observe()), clock(site)


def clock(site) -> int:
    return int(on_host(site.host, "date", "+%s"))
