"""An upgrade against plain `apt-get install` of the same packages on the same host.

Both sides in one run, on a fresh host each time, in turns first: `python -m tests.bench upgrade --runs 2`. From the
older to the newer of the two versions that Debian 12's sources have of containerd, QEMU and the kernel; the guests'
kernel is a package of the host's on apt's side. The gate's fixed wait (`base_grace`) is taken off and listed apart.
"""

import statistics
import tempfile
import time
from pathlib import Path

from appliance import lock
from appliance.lab import manage, state
from tests.bench.deploy import by_phase, rounded, say
from tests.conftest import on_host
from tests.e2e.conftest import events
from tests.e2e.release_site import Site

HOST = "bench-upgrade"
GRACE = 30  # base_grace


def run(runs: int) -> dict:
    """Measure `runs` times. Returns seconds per run and side, the ratios of the medians, and the upgrade by phase."""
    found: dict[str, list[float]] = {"upgrade": [], "apt": [], "apt_kernel": []}
    phases: dict[str, float] = {}
    try:
        for number in range(runs):
            with tempfile.TemporaryDirectory() as directory:
                (host,) = manage.up([HOST], disk_mib=4096)
                site = _Site(host, Path(directory))
                sides = [site.upgrade, site.apt]
                for side in sides if number % 2 == 0 else reversed(sides):
                    say(f"run {number + 1} of {runs}: {side.__name__}")
                    phases = side(found) or phases
                    site.back()
            manage.down([HOST])
    finally:
        if any(h.name == HOST for h in state.load_all()):
            manage.down([HOST])
    middle = {name: statistics.median(values) for name, values in found.items()}
    return {
        "upgrade_s": rounded(found["upgrade"]),
        "gate_s": GRACE,
        "apt_s": rounded(found["apt"]),
        "apt_kernel_s": rounded(found["apt_kernel"]),
        "ratio": round(middle["upgrade"] / (middle["apt"] + middle["apt_kernel"]), 2),
        "ratio_without_kernel": round(middle["upgrade"] / middle["apt"], 2),
        "upgrade_by_phase_s": phases,
    }


class _Site(Site):
    """The host at the older release, and both ways to the newer."""

    def __init__(self, host, directory: Path):
        super().__init__(host, directory)
        on_host(host, "apt-get", "-qq", "update")
        self.old, self.new = self.lock("old", old=True), self.lock("new")
        self._do("deploy", "--lock", str(self.old))

    def upgrade(self, found: dict) -> dict:
        """The upgrade; its phases."""
        began = time.monotonic()
        done = self._do("upgrade", "--lock", str(self.new), "--yes", "-o", "json")
        found["upgrade"].append(time.monotonic() - began - GRACE)
        return by_phase(events(done.stdout))

    def apt(self, found: dict) -> None:
        """What apt alone takes for the packages that the locks have in two versions."""
        old, new = (next(iter(lock.read(path)["platforms"].values())) for path in (self.old, self.new))
        kernels = [old["kernel"][0], new["kernel"][0]]
        changed = {
            name: package["version"]
            for name, package in new["packages"].items()
            if name in old["packages"] and package["version"] != old["packages"][name]["version"]
        }
        there = self.versions(*changed)
        self._install([f"{name}={version}" for name, version in changed.items() if name in there], found["apt"])
        # what a kernel brings with it is there before, as on a host that had one
        self._install([f"{kernels[0]}={old['packages'][kernels[0]]['version']}"], [])
        self._install([f"{kernels[1]}={new['packages'][kernels[1]]['version']}"], found["apt_kernel"])
        on_host(self.host, "sh", "-c", f"apt-get -q -y purge {' '.join(kernels)} 2>&1")

    def back(self) -> None:
        """To the older release again, with nothing of the newer left in a cache."""
        self._do("deploy", "--lock", str(self.old))
        new = lock.read(self.new)["id"]
        on_host(self.host, "sh", "-c", f"apt-get clean; rm -rf /var/lib/casemate/releases/{new}")

    def _install(self, words: list[str], seconds: list[float]) -> None:
        command = "DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends install " + " ".join(words)
        began = time.monotonic()
        on_host(self.host, "sh", "-c", f"{command} 2>&1")
        seconds.append(time.monotonic() - began)

    def _do(self, *words: str):
        done = self.run(*words)
        if done.returncode:
            raise SystemExit(f"{words[0]} ended with {done.returncode}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        return done
