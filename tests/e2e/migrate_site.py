"""Two hosts and a pod that counts, for the cases that move it."""

import json
import subprocess
import sys
import time
from pathlib import Path

import yaml

from appliance.lab import state
from tests.conftest import ROOT, appliance, on_host
from tests.e2e.backup_site import VOLUMES, pod

POOL = "/var/lib/casemate/pool"
# goes on where it was stopped, so that a line which is lost, or is there twice, can be seen
COUNT = (
    "i=$(tail -n 1 /data/lines 2>/dev/null || echo 0); while :; do i=$((i+1)); echo $i >> /data/lines; sleep 0.1; done"
)


def counting(name: str = "shop", volume: str = "orders", **labels: str) -> dict:
    """A pod that writes the next number to its volume, ten times a second."""
    made = pod(name, volume, **labels)
    made["spec"]["containers"][0]["command"] = ["/bin/sh", "-c", COUNT]
    return made


class Site:
    """Hosts with the same inventory; the first has the pod from it."""

    def __init__(self, directory: Path, *hosts, own: dict | None = None):
        """`own` are further variables of hosts, by name."""
        self.hosts, self.inventory = hosts, directory / "site.yml"
        known = json.loads(state.inventory_path().read_text())["appliance"]["hosts"]
        variables = {
            "storage_volumes": [{"name": "orders", "size": "3G"}], "engine_default_handler": "runc", "pods_demo": True,
            "pods_demo_port": 8081, "microvm_sizes": [{"name": "small", "memory_mib": 256, "vcpus": 1}],
        }  # fmt: skip
        declared = {host.name: known[host.name] | (own or {}).get(host.name, {}) for host in hosts}
        self.inventory.write_text(yaml.safe_dump({"appliance": {"vars": variables, "hosts": declared}}))
        done = self.run("deploy")
        assert done.returncode == 0, done.stdout + done.stderr

    def run(self, *words: str) -> subprocess.CompletedProcess:
        return appliance(*words, "-i", str(self.inventory))

    def ask(self, *words: str) -> dict:
        done = self.run(*words, "-o", "json")
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)

    def put(self, host, document: dict, folder: str = "pods") -> None:
        """Declare something on a host beside what its inventory says."""
        path = f"/etc/casemate/{folder}/{document['metadata']['name']}.yaml"
        on_host(host, "sh", "-c", f"umask 077; cat > {path}.new; mv {path}.new {path}", stdin=yaml.safe_dump(document))

    def words(self, source, *targets, pods: str = "app=shop") -> list[str]:
        """The command line of a migration."""
        to = [word for target in targets for word in ("--to", target.name)]
        return ["migrate", "--from", source.name, *to, "--select", pods]

    def move(self, source, *targets) -> dict:
        return self.ask(*self.words(source, *targets), "--yes")

    def start(self, source, *targets) -> subprocess.Popen:
        """Begin a migration, for a test that does something to it."""
        argv = [sys.executable, "-m", "appliance", *self.words(source, *targets), "--yes", "-i", str(self.inventory)]
        return subprocess.Popen(
            argv, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def pods(self, host) -> dict[str, bool]:
        """Whether each pod of a host is ready."""
        told = json.loads(on_host(host, "/usr/lib/casemate/bin/casemate-pod", "list", "--output=json"))
        return {one["name"]: one["ready"] for one in told}


def sh(host, script: str) -> str:
    return on_host(host, "sh", "-c", script)


def counted(host, volume: str = "orders") -> int:
    """How far the pod's volume has come on a host; fails where a line is missing, or is there twice."""
    lines = sh(host, f"cat {VOLUMES}/{volume}/lines").split()
    assert lines == [str(number + 1) for number in range(len(lines))], lines[-5:]
    return len(lines)


def counts(host, volume: str = "orders") -> bool:
    """Whether the pod is at work on a host."""
    before = counted(host, volume)
    end = time.monotonic() + 20
    while time.monotonic() < end:
        if counted(host, volume) > before:
            return True
        time.sleep(0.2)
    return False


def left_over(host) -> str:
    """What a migration has left on a host besides what it put away."""
    return sh(
        host,
        f"cd {POOL}; ls -Ad .[a-z]* 2>/dev/null; ls /var/lib/casemate/migrate | grep -vx 'lock\\|left\\|arrived'; "
        "find /var/lib/casemate/migrate/arrived -type f 2>/dev/null; "
        "systemctl list-units --all --plain --no-legend 'casemate-migrate-*'; true",
    )


def sweep(host) -> None:
    """Remove what migrations put away: the lab's disks are small."""
    sh(host, f"cd {POOL}; for one in replaced/*; do btrfs subvolume delete $one >/dev/null 2>&1 || rm -rf $one; done")
