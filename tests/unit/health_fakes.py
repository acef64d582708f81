"""A host for the checks that is made of a directory and of what its programs are to answer."""

from __future__ import annotations

from pathlib import Path

from appliance.node.health import checks, registry  # noqa: F401 - checks registers what registry runs
from appliance.node.health.host import Host, Result
from appliance.node.health.settings import Settings


class FakeHost(Host):
    """Files below `root`; `programs`: start of a command line to Result; `unreachable`: address to reason."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.programs: dict[str, Result] = {}
        self.unreachable: dict[str, str] = {}
        self.pages: dict[str, str] = {}
        self.ran: list[str] = []
        self.clock = 1_800_000_000.0
        self.user = 0
        self.name = "edge1"
        self.free = 100_000

    def write(self, name: str, text: str) -> None:
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def run(self, argv, timeout=10.0):
        line = " ".join(argv)
        self.ran.append(line)
        fitting = [answer for start, answer in self.programs.items() if line.startswith(start)]
        return fitting[-1] if fitting else Result(127, err=f"{argv[0]}: not there")

    def connect(self, address, port, timeout):
        return self.unreachable.get(address)

    def fetch(self, url, timeout=5.0):
        if url not in self.pages:
            raise OSError("connection refused")
        return self.pages[url]

    def now(self):
        return self.clock

    def euid(self):
        return self.user

    def hostname(self):
        return self.name

    def free_mib(self, name):
        return self.free


def bare(root: Path) -> FakeHost:
    """A Debian 12 host, freshly installed, with nothing wrong."""
    host = FakeHost(root)
    host.write("/etc/os-release", 'ID=debian\nVERSION_ID="12"\nVERSION_CODENAME=bookworm\nPRETTY_NAME="Debian 12"\n')
    host.write("/proc/1/comm", "systemd\n")
    host.path("/run/systemd/system").mkdir(parents=True)
    host.write("/proc/meminfo", "MemTotal:        4000000 kB\n")
    host.write("/sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory pids\n")
    host.write("/proc/self/mounts", "/dev/sda1 / ext4 rw 0 0\ncgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n")
    host.write("/etc/apt/sources.list", "deb http://deb.example.org/debian bookworm main\n")
    host.write("/proc/net/route", "Iface Destination Gateway Flags RefCnt Use Metric Mask\n")
    host.path("/var").mkdir()
    host.path("/usr").mkdir()
    host.programs["dpkg "] = Result(0)
    return host


def found(host: Host, check_id: str, entry: str = "preflight", **settings) -> list[dict]:
    """The findings of one check."""
    [one] = [check for check in registry.CHECKS if check.id == check_id and entry in check.entries]
    return one.run(host, Settings(**settings))


def errors(host: Host, entry: str = "preflight", **settings) -> list[str]:
    """The ids of all findings of severity error that are not ok."""
    return [
        one["id"]
        for one in registry.run(entry, host, Settings(**settings))
        if not one["ok"] and one["severity"] == "error"
    ]
