"""A host that is gone: its pods and what they wrote come back on another, of a newer Debian, from an sftp server."""

import json
import os
import subprocess

import pytest
import yaml

from appliance.lab import manage, state
from tests.conftest import appliance, on_host
from tests.e2e.backup_site import VOLUMES, pod
from tests.e2e.release_site import until

pytestmark = [pytest.mark.lab, pytest.mark.full]


@pytest.fixture(scope="module")
def server(new_host):
    """A lab host that is nothing but an sftp server."""
    host = new_host("st")
    on_host(host, "sh", "-c", "apt-get -qq update && apt-get -qq install openssh-server >/dev/null 2>&1")
    return host


def test_a_host_that_was_destroyed_lives_on_in_another(server, new_host, tmp_path):
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    on_host(server, "sh", "-c", "mkdir -pm 700 ~/.ssh; cat > ~/.ssh/authorized_keys",
            stdin=key.with_suffix(".pub").read_text())  # fmt: skip
    public = on_host(server, "cat", "/etc/ssh/ssh_host_ed25519_key.pub").split()
    vault, password = tmp_path / "vault", tmp_path / "password"
    vault.write_text("of the vault")
    password.write_text("of the repository")
    one, other = new_host("ra", release="bookworm"), new_host("rb", release="trixie")
    hosts = json.loads(state.inventory_path().read_text())["appliance"]["hosts"]
    variables = {
        "backup_repository": f"sftp:root@{server.ip}:/srv/backup", "backup_password_file": str(password),
        "backup_ssh_key": _vaulted(key.read_text(), vault), "backup_schedule": "",
        "backup_ssh_known_hosts": f"{server.ip} {' '.join(public[:2])}",
        "storage_volumes": [{"name": "orders", "size": "64M"}], "engine_default_handler": "runc", "pods_demo": True,
        "microvm_sizes": [{"name": "small", "memory_mib": 256, "vcpus": 1}],
    }  # fmt: skip
    inventory = tmp_path / "site.yml"
    # the first has the pod from its inventory; the other one's names none, and its pool has no volume yet
    own = {"pods": [pod("shop", "orders", app="shop")]}
    inventory.write_text(
        yaml.dump({"appliance": {"vars": variables, "hosts": {
            one.name: hosts[one.name] | own, other.name: hosts[other.name] | {"storage_volumes": []},
        }}}, Dumper=_Dumper)
    )  # fmt: skip

    def run(host, *words):
        environment = os.environ | {"ANSIBLE_VAULT_PASSWORD_FILE": str(vault)}
        done = appliance(*words, "-i", str(inventory), "--limit", host.name, env=environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run(one, "deploy")
    until(lambda: int(on_host(one, "tail", "-n", "1", f"{VOLUMES}/orders/lines")) > 20)
    before = int(on_host(one, "tail", "-n", "1", f"{VOLUMES}/orders/lines"))
    run(one, "backup", "now")
    manage.down([one.name])
    run(other, "deploy")
    run(other, "restore", "--from", one.name, "--pod", "shop", "--yes")
    lines = on_host(other, "cat", f"{VOLUMES}/orders/lines").split()
    assert lines[:before] == [str(number + 1) for number in range(before)]
    pods = json.loads(run(other, "status", "-o", "json"))["hosts"][0]["pods"]
    assert {one["name"]: one["ready"] for one in pods} == {"demo": True, "shop": True}
    run(other, "deploy")  # the inventory does not name the pod, which stays all the same
    pods = json.loads(run(other, "status", "-o", "json"))["hosts"][0]["pods"]
    assert "shop" in [one["name"] for one in pods]


class _Vaulted(str):
    """A text that YAML writes as what ansible-vault made of it."""


class _Dumper(yaml.SafeDumper):
    pass


_Dumper.add_representer(_Vaulted, lambda dumper, text: dumper.represent_scalar("!vault", str(text), style="|"))


def _vaulted(text: str, password) -> _Vaulted:
    argv = ["ansible-vault", "encrypt_string", "--vault-password-file", str(password), "--stdin-name", "x"]
    made = subprocess.run(argv, input=text, text=True, capture_output=True, check=True)
    return _Vaulted("\n".join(line.strip() for line in made.stdout.splitlines()[1:]) + "\n")
