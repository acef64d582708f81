"""The lab host that the end-to-end cases share, and the order in which they use it: bare, deployed, reset."""

import json
import os
import random
import re
from dataclasses import dataclass, field

import pytest

from appliance.lab import state
from appliance.lab.state import Host
from tests.conftest import appliance, on_host
from tests.e2e import traces
from tests.e2e.kill import Killed, deploy_killed

FIRST, LAST = "test_bare_host", "test_reset"
# what a running host writes by itself: its journal, what apt and the clock keep, dates of boots and of timers
LIVING = ("var/log", "var/lib/systemd/timers", "var/lib/systemd/random-seed", "var/lib/systemd/timesync")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The bare host's cases first, those of reset last, as they share one host."""
    position = {FIRST: -1, LAST: 1}
    items.sort(key=lambda item: position.get(item.path.stem, 0) if "e2e" in item.path.parts else 0)


def pytest_report_header() -> str:
    return f"random moments: CASEMATE_SEED={seed()}"


def seed() -> str:
    """What random moments are drawn from; the environment's, to repeat a run."""
    return os.environ.setdefault("CASEMATE_SEED", str(random.SystemRandom().randrange(10**6)))


@dataclass
class Bare:
    """A lab host before anything was deployed: files and packages, and what `plan` then said."""

    host: Host
    files: dict[str, tuple]
    kernel: dict[str, list[str]]
    users: set[str]
    planned: list[dict] = field(default_factory=list)
    code: int = -1
    after_plan: list[str] = field(default_factory=list)


@pytest.fixture(scope="session")
def bare(new_host) -> Bare:
    """The shared host as it was bare, planned once."""
    host = new_host("a")
    users = {line.split(":")[0] for line in (host.root / "etc/passwd").read_text().splitlines()}
    found = Bare(host, traces.files(host.root, LIVING), kernel_state(host), users)
    done = appliance("plan", "--limit", host.name, "-o", "json")
    found.code, found.planned = done.returncode, events(done.stdout)
    found.after_plan = traces.difference(found.files, traces.files(host.root, LIVING))
    return found


@dataclass
class Deployment:
    """How the shared host was deployed: killed once at a random moment, then with the same command again."""

    host: Host
    killed: Killed
    code: int
    events: list[dict]
    said: str


@pytest.fixture(scope="session")
def deployment(bare) -> Deployment:
    killed = deploy_killed(bare.host, random.Random(seed()))
    done = appliance("deploy", "--limit", bare.host.name, "-o", "json")
    return Deployment(bare.host, killed, done.returncode, events(done.stdout), done.stderr)


@pytest.fixture(scope="session")
def deployed_host(request) -> Host:
    """The shared lab host, deployed from inventories/lab; while a test is written, CASEMATE_E2E_HOST names one."""
    if name := os.environ.get("CASEMATE_E2E_HOST"):
        return state.load(name)
    deployment = request.getfixturevalue("deployment")
    assert deployment.code == 0, [e for e in deployment.events if e["event"] == "failure"] or deployment.said
    return deployment.host


def events(lines: str) -> list[dict]:
    """The JSON lines of a run."""
    return [json.loads(line) for line in lines.splitlines()]


def kernel_state(host: Host) -> dict[str, list[str]]:
    """What a host's kernel and systemd hold that a deploy could leave: by kind, without what changes by itself."""
    asked = {
        "interfaces": "ip -br link | awk '{print $1}'",
        "routes": "ip route; ip rule",
        "mounts": "awk '{print $5}' /proc/self/mountinfo",
        "processes": "ps -eo comm= --ppid 2 -N | grep -vx 'ps\\|sh\\|sort'",
        "units": "systemctl list-units --all --plain --no-legend 'casemate*' '*casemate*' containerd* prometheus*",
        "cgroups": "find /sys/fs/cgroup -type d \\( -name 'k8s*' -o -name '*casemate*' \\)",
        # the others come with logins and with adduser's first use
        "run": "find /run -maxdepth 1 ! -name utmp ! -name agetty.reload ! -name adduser",
        "packages": "dpkg-query -W -f '${db:Status-Abbrev} ${Package} ${Version}\\n'",
        "by hand": "apt-mark -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= showmanual",
        # base chains that iptables made stay, empty: its package may be gone before they are
        "rules": "command -v iptables-save >/dev/null && iptables-save | grep -v '^[#:*]\\|^COMMIT' || true",
    }
    found = {}
    for kind, command in asked.items():
        lines = on_host(host, "sh", "-c", f"{command}", check=False).splitlines()
        found[kind] = sorted(re.sub(r"\s+", " ", line).strip() for line in lines)
    return found
