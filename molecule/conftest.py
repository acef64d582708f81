"""What the scenarios' tests share: the lab host, entered directly, and what it can tell when a test fails."""

import os
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import testinfra.backend
from testinfra.backend.base import BaseBackend, CommandResult

from appliance.lab import state
from appliance.lab.leader import leader_of

HOST = f"mol-{os.environ.get('CASEMATE_MOLECULE_RELEASE') or 'bookworm'}"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

CONFIGURATION = (
    "/etc/casemate/*.json",
    "/etc/containerd/config.toml",
    "/etc/cni/net.d/*",
    "/etc/prometheus/prometheus.yml",
    "/etc/default/prometheus*",
)


class LabBackend(BaseBackend):
    """Runs commands in the namespaces of a lab host's init; its hosts are named `lab://NAME`."""

    NAME = "lab"

    def __init__(self, name: str, *args, **kwargs) -> None:
        super().__init__(name, *args, **kwargs)
        self.root = state.load(name).root

    def run(self, command: str, *args: str, **kwargs) -> CommandResult:
        words = ["nsenter", "-t", str(leader_of(self.root)), "-a", "env", "-i", f"PATH={PATH}", "HOME=/root"]
        return self.run_local(shlex.join([*words, "/bin/sh", "-c", self.get_command(command, *args)]))


testinfra.backend.BACKENDS["lab"] = f"{__name__}.LabBackend"


@pytest.fixture(scope="session")
def host():
    """The scenarios' lab host, as testinfra's host object."""
    return testinfra.get_host(f"lab://{HOST}")


@pytest.fixture(scope="session")
def address() -> str:
    """The lab host's address, as this machine reaches it."""
    return state.load(HOST).ip


@pytest.fixture(scope="session")
def fetch(host) -> Callable[[str], str]:
    """Reads a URL from the host, with its own Python: a bare host has no curl."""
    program = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1], timeout=20).read().decode())"
    return lambda url: host.check_output("python3 -c %s %s", program, url)


@pytest.fixture(scope="session")
def converge() -> Callable[..., subprocess.CompletedProcess]:
    """Runs the scenario's converge.yml on the host, as Molecule does, with further arguments."""
    project = Path(os.environ["MOLECULE_PROJECT_DIRECTORY"])
    inventories = [f"--inventory={project / path}" for path in ("inventories/lab", "molecule/inventory")]

    def run(*arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            ["ansible-playbook", *inventories, f"--limit={HOST}", *arguments, "converge.yml"],
            cwd=os.environ["MOLECULE_SCENARIO_DIRECTORY"],
            env={**os.environ, "ANSIBLE_CONFIG": str(project / "ansible.cfg")},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def pytest_terminal_summary(terminalreporter, exitstatus) -> None:
    """After a failure: the host's failed units, its journal and its configuration."""
    if not terminalreporter.stats.get("failed") and not terminalreporter.stats.get("error"):
        return
    host = testinfra.get_host(f"lab://{HOST}")
    for title, command in (
        ("failed units", "systemctl --failed --no-legend --plain"),
        ("journal", "journalctl --no-pager --lines=60 --priority=info --output=short-precise"),
        ("configuration", f"tail -n +1 {' '.join(CONFIGURATION)} 2>/dev/null"),
    ):
        terminalreporter.section(f"{HOST}: {title}")
        terminalreporter.write_line(host.run(command).stdout)


def pytest_report_header() -> str:
    return f"lab host: {HOST}, root {Path(state.load(HOST).root)}"
