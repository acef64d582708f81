"""`reset` gives back the host that was there before, and a deploy after it works."""

import pytest

from tests.conftest import appliance, on_host
from tests.e2e import traces
from tests.e2e.conftest import LIVING, events, kernel_state

pytestmark = pytest.mark.lab

# What stays, and why. Paths below the host's root:
STAYS = (
    "var/cache",  # apt's and ldconfig's caches, made anew when asked
    "var/lib/apt",  # package lists; what apt knows of automatic installations
    "var/lib/dpkg",  # dpkg's own records: of status, statoverrides, triggers, old copies
    "var/lib/systemd/deb-systemd-helper-enabled",  # Debian's helper forgets on the next purge only
    "var/lib/systemd/deb-systemd-user-helper-enabled",
    "etc/ld.so.cache",  # ldconfig's
    "etc/passwd", "etc/group", "etc/shadow", "etc/gshadow",  # Debian's packages never remove their users
    "etc/.pwd.lock", "etc/subuid", "etc/subgid",
)  # fmt: skip
USERS_OF_PACKAGES = {"prometheus", "rdma"}


def test_without_a_terminal_and_without_yes_reset_refuses(deployed_host):
    done = appliance("reset", "--limit", deployed_host.name)
    assert done.returncode == 2
    assert "--yes" in done.stderr
    assert (deployed_host.root / "etc/casemate/release.json").exists()


@pytest.fixture(scope="module")
def admins_file(deployment):
    """Something that is not ours, beside what is."""
    path = deployment.host.root / "etc/containerd/certs.d/admin.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("mine\n")
    return path


@pytest.fixture(scope="module")
def after(deployment, admins_file) -> tuple:
    """The reset of the shared host: what it said, and the host then."""
    host = deployment.host
    done = appliance("reset", "--yes", "--limit", host.name, "-o", "json")
    stayed = admins_file.read_text()
    admins_file.unlink()
    for directory in list(admins_file.parents)[:2]:
        directory.rmdir()
    return done, stayed, traces.files(host.root, LIVING + STAYS), kernel_state(host)


def test_reset_succeeds_and_tells_what_it_removed(after):
    done, _, _, _ = after
    assert done.returncode == 0, [e for e in events(done.stdout) if e["event"] == "failure"]
    told = [what for e in events(done.stdout) if e["event"] == "change" for what in e["removed"]]
    for expected in ("pod demo", "interface casemate0", "/usr/lib/casemate/"):
        assert expected in told


def test_reset_leaves_the_files_that_were_there_before(bare, after):
    before = {path: entry for path, entry in bare.files.items() if not path.startswith(STAYS)}
    assert traces.difference(without_times(before), without_times(after[2])) == []


def test_reset_leaves_what_an_admin_put_beside_our_files(after):
    assert after[1] == "mine\n"


@pytest.mark.parametrize("kind", [
    "interfaces", "routes", "mounts", "processes", "units", "cgroups", "run", "packages", "by hand", "rules",
])  # fmt: skip
def test_reset_leaves_the_hosts_kernel_and_services_as_they_were(bare, after, kind):
    assert after[3][kind] == bare.kernel[kind]


def test_reset_leaves_no_user_but_those_of_packages(bare, after):
    users = {line.split(":")[0] for line in (bare.host.root / "etc/passwd").read_text().splitlines()}
    assert users - bare.users <= USERS_OF_PACKAGES


def test_reset_leaves_the_pools_data_on_its_device(after, bare):
    assert "casemate-pool" in on_host(bare.host, "blkid", "-p", bare.host.vars["storage_device"])


def test_a_second_reset_changes_nothing(after, bare):
    done = appliance("reset", "--yes", "--limit", bare.host.name, "-o", "json")
    assert done.returncode == 0
    assert [e for e in events(done.stdout) if e["event"] == "change"] == []


@pytest.mark.full
def test_a_deploy_after_reset_works_and_a_wiping_reset_leaves_a_blank_device(after, bare):
    host = bare.host
    assert appliance("deploy", "--limit", host.name).returncode == 0
    assert appliance("doctor", "--limit", host.name).returncode == 0
    assert appliance("reset", "--yes", "--wipe-storage", "--limit", host.name).returncode == 0
    assert on_host(host, "blkid", "-p", host.vars["storage_device"], check=False) == ""


def without_times(entries: dict) -> dict:
    """The listing without times of change: what a package removed and a directory lost leave no other trace."""
    return {path: entry[:4] + entry[5:] for path, entry in entries.items()}
