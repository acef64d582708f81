"""A host with two pods that write to volumes, and a repository, for the tests of backups."""

import copy
import json
import os
import subprocess
from pathlib import Path

import yaml

from appliance.lab import state
from tests.conftest import appliance, on_host

VOLUMES = "/var/lib/casemate/pool/volumes"
SECRET = "one very secret word"


HOOKS = {
    "io.casemate.backup/before": '["/bin/sh", "-c", "echo before >> /data/hooks"]',
    "io.casemate.backup/after": '["/bin/sh", "-c", "echo after >> /data/hooks"]',
}


def pod(name: str, volume: str, annotations: dict | None = None, **labels: str) -> dict:
    """A pod that writes a line a tenth of a second to a volume."""
    write = "i=0; while :; do i=$((i+1)); echo $i >> /data/lines; sleep 0.1; done"
    container = {
        "name": "main", "image": "localhost/casemate/demo:1", "imagePullPolicy": "Never",
        "command": ["/bin/sh", "-c", write], "volumeMounts": [{"name": "data", "mountPath": "/data"}],
    }  # fmt: skip
    claim = [{"name": "data", "persistentVolumeClaim": {"claimName": volume}}]
    spec = {"containers": [container], "volumes": claim, "terminationGracePeriodSeconds": 1,
            "securityContext": {"runAsUser": 0}}  # fmt: skip
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels,
            "annotations": annotations or {}}, "spec": spec}  # fmt: skip


class Site:
    """A host with two pods that write, and a repository in a directory of its own; perhaps others like it.

    `changes` are variables that are others, or more; `own` are those of single hosts, by their names.
    """

    def __init__(self, host, directory, *others, own: dict | None = None, **changes):
        self.host, self.directory = host, directory
        password = directory / "password"
        password.touch(mode=0o600)
        password.write_text(SECRET)
        known = json.loads(state.inventory_path().read_text())["appliance"]["hosts"]
        hosts = {one.name: known[one.name] | (own or {}).get(one.name, {}) for one in (host, *others)}
        variables = {
            "backup_repository": "/srv/backup", "backup_password_file": str(password), "backup_schedule": "",
            "storage_volumes": [{"name": "orders", "size": "64M"}, {"name": "uploads"}, {"name": "scratch"}],
            "engine_default_handler": "runc", "pods_demo": True, "pods_demo_port": 8081,
            "microvm_sizes": [{"name": "small", "memory_mib": 256, "vcpus": 1}],
            "pods": [pod("shop", "orders", HOOKS, app="shop"), pod("blog", "uploads", app="blog")],
        }  # fmt: skip
        self.inventory = directory / "site.yml"
        self.inventory.write_text(
            yaml.dump({"appliance": {"vars": variables | changes, "hosts": hosts}}, Dumper=Dumper)
        )

    def at(self, host) -> "Site":
        """The same site, where another of its hosts is asked."""
        other = copy.copy(self)
        other.host = host
        return other

    def run(self, *words: str):
        environment = os.environ | {"ANSIBLE_VAULT_PASSWORD_FILE": str(self.directory / "vault")}
        with_vault = {"env": environment} if (self.directory / "vault").exists() else {}
        at = words.index("--") if "--" in words else len(words)
        options = ["-i", str(self.inventory), "--limit", self.host.name]
        return appliance(*words[:at], *options, *words[at:], **with_vault)

    def deploy(self) -> None:
        done = self.run("deploy")
        assert done.returncode == 0, done.stdout + done.stderr

    def ask(self, *words: str) -> dict:
        done = self.run(*words, "-o", "json")
        assert done.returncode == 0, done.stdout + done.stderr
        told = json.loads(done.stdout)
        return told["hosts"][0] if "hosts" in told else told

    def sh(self, script: str) -> str:
        return on_host(self.host, "sh", "-c", script)

    def last(self, volume: str) -> int:
        return int(self.sh(f"tail -n 1 {VOLUMES}/{volume}/lines"))


def sftp_server(host, directory: Path) -> dict:
    """Make a lab host an sftp server. Returns the variables of who backs up to it, its key vaulted."""
    on_host(host, "sh", "-c", "apt-get -qq update && apt-get -qq install openssh-server >/dev/null 2>&1")
    key = directory / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    on_host(host, "sh", "-c", "mkdir -pm 700 ~/.ssh; cat > ~/.ssh/authorized_keys",
            stdin=key.with_suffix(".pub").read_text())  # fmt: skip
    public = on_host(host, "cat", "/etc/ssh/ssh_host_ed25519_key.pub").split()
    vault = directory / "vault"
    vault.write_text("of the vault")
    return {
        "backup_repository": f"sftp:root@{host.ip}:/srv/backup",
        "backup_ssh_key": vaulted(key.read_text(), vault),
        "backup_ssh_known_hosts": f"{host.ip} {' '.join(public[:2])}",
    }


class _Vaulted(str):
    """A text that YAML writes as what ansible-vault made of it."""


class Dumper(yaml.SafeDumper):
    """Writes what `vaulted` gives as an inventory has it."""


Dumper.add_representer(_Vaulted, lambda dumper, text: dumper.represent_scalar("!vault", str(text), style="|"))


def vaulted(text: str, password: Path) -> str:
    """A text as an inventory has it that was encrypted with the password in this file."""
    argv = ["ansible-vault", "encrypt_string", "--vault-password-file", str(password), "--stdin-name", "x"]
    made = subprocess.run(argv, input=text, text=True, capture_output=True, check=True)
    return _Vaulted("\n".join(line.strip() for line in made.stdout.splitlines()[1:]) + "\n")
