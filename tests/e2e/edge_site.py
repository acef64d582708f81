"""An edge host, its cloud and the server of its release, for the tests of role edge."""

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import yaml

from appliance.lab import manage, state
from appliance.lab.state import Host
from tests.conftest import ROOT, appliance, on_host
from tests.e2e.conftest import events
from tests.standins import release
from tests.standins.cloudcore import CloudCore


def until(look: Callable, wanted: Callable, seconds: float = 180):
    """What `look` returns once `wanted` agrees with it, or at the end of the time, for the caller to judge."""
    deadline = time.monotonic() + seconds
    while not wanted(found := look()) and time.monotonic() < deadline:
        time.sleep(1)
    return found


class Site:
    """One host of the lab with an inventory of its own, made like inventories/kubeedge."""

    def __init__(self, host: Host, directory: Path) -> None:
        self.host, self.directory = host, directory
        served = directory / "served"
        served.mkdir()
        self.archive = release.make(served)
        self.server = release.Server(state.GATEWAY, served)
        self.cloud = CloudCore(state.GATEWAY, directory / "cloud").start()
        self.token_file = directory / "token"
        self.give_token(self.cloud.token())
        shipped = yaml.safe_load((ROOT / "inventories/kubeedge/site.yml").read_text())["appliance"]["vars"]
        self.vars = shipped | {
            **self.pinned(release.VERSION),
            "edge_cloud_address": state.GATEWAY,
            "edge_cloud_port": self.cloud.port,
            "edge_cloud_https_port": self.cloud.https_port,
            "edge_token_file": str(self.token_file),
            "engine_default_handler": "runc",
            "pods_demo": False,
            # nothing here runs in a microVM: one small size, and no template to make
            "microvm_sizes": [{"name": "small", "memory_mib": 256, "vcpus": 1}],
        }

    def give_token(self, token: str) -> None:
        self.token_file.touch(mode=0o600)
        self.token_file.write_text(token)

    def written(self, token: str) -> Path:
        """A file with this token."""
        path = self.directory / "another token"
        path.touch(mode=0o600)
        path.write_text(token)
        return path

    def inventory(self, **changes: object) -> Path:
        """The inventory, with these variables instead; None takes one out."""
        values = {name: value for name, value in (self.vars | changes).items() if value is not None}
        connection = json.loads((state.inventory_path()).read_text())["appliance"]["hosts"][self.host.name]
        path = self.directory / "site.yml"
        path.write_text(yaml.safe_dump({"appliance": {"vars": values, "hosts": {self.host.name: connection}}}))
        return path

    def deploy(self, verb: str = "deploy", *words: str, **changes: object) -> "Run":
        done = appliance(verb, "-i", str(self.inventory(**changes)), "-o", "json", *words)
        return Run(done.returncode, events(done.stdout) if done.stdout.startswith('{"event"') else [], done)

    def artifact(self, version: str) -> dict[str, object]:
        """What /etc/casemate/edge.json says of a release that the server has."""
        pinned = self.pinned(version)
        member = f"kubeedge-{version}-linux-amd64/edge/edgecore"
        known = {"url": pinned["edge_url"], "checksum": pinned["edge_checksum"], "size": pinned["edge_size"]}
        return {"version": version, "artifact": known | {"member": member}}

    def fetch(self, artifact: dict) -> subprocess.CompletedProcess:
        """Fetch a release as role edge does."""
        return self._program("fetch", "--artifact", json.dumps(artifact))

    def apply(self, token: str = "", **changes: object) -> subprocess.CompletedProcess:
        """Declare something else on the deployed host, and have it applied, as role edge does without the rest."""
        declared = json.loads(self.run("cat", "/etc/casemate/edge.json")) | changes
        fetched = self.fetch(declared["artifact"])
        assert fetched.returncode == 0, fetched.stderr
        self.run("sh", "-c", "cat > /etc/casemate/edge.json", stdin=json.dumps(declared))
        if token:
            self.run("sh", "-c", "umask 077 && cat > /run/casemate/edge-token", stdin=token)
        return self._program("apply")

    def _program(self, *words: str) -> subprocess.CompletedProcess:
        argv = manage.shell(self.host.name, ["/usr/lib/casemate/bin/casemate-edge", *words])
        return subprocess.run(argv, capture_output=True, text=True, check=False)

    def ask(self, verb: str) -> dict:
        """What status or doctor says of the host."""
        return json.loads(appliance(verb, "-i", str(self.inventory()), "-o", "json").stdout)["hosts"][0]

    def finding(self, name: str) -> dict:
        """One of doctor's."""
        checks = self.ask("doctor")["checks"]
        return next((one for one in checks if one["id"] == name), {"missing": [one["id"] for one in checks]})

    def run(self, *command: str, check: bool = True, stdin: str | None = None) -> str:
        return on_host(self.host, *command, check=check, stdin=stdin)

    def pinned(self, version: str) -> dict[str, object]:
        """The variables that pin a release that the server has."""
        archive = self.archive.with_name(f"kubeedge-{version}-linux-amd64.tar.gz")
        return {
            "edge_version": version,
            "edge_url": f"{self.server.url}/{archive.name}",
            "edge_checksum": release.checksum(archive),
            "edge_size": archive.stat().st_size,
        }

    def plug(self, there: bool) -> None:
        """Plug the host's network cable, or pull it; that outlives reboots."""
        subprocess.run(["ip", "link", "set", self.host.interface, "up" if there else "down"], check=True)

    def close(self) -> None:
        self.server.stop()
        self.cloud.stop()


class Run:
    """How a deploy ended: `code`, `changed` (names of tasks), `failure` (its message), `said` (all of its output)."""

    def __init__(self, code: int, lines: list[dict], done) -> None:
        self.code, self.said = code, done.stdout + done.stderr
        self.changed = [line.get("task") or line.get("name") for line in lines if line["event"] == "change"]
        self.failure = "\n".join(line["msg"] for line in lines if line["event"] == "failure")
