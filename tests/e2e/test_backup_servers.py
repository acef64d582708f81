"""Backups to servers with real restic: S3 of role objects and a rest-server, both with a private authority's
certificate; what is said when they refuse or go away; and where their keys are to be found meanwhile.

sftp is in test_restore_elsewhere.py.
"""

import json
import os
import subprocess
import sys
import threading

import pytest
import yaml

from appliance.lab import state
from tests import images
from tests.conftest import ROOT, appliance, on_host
from tests.e2e.backup_site import VOLUMES, Dumper, pod, vaulted
from tests.e2e.release_site import until

pytestmark = [pytest.mark.lab, pytest.mark.full]
REPOSITORY_WORD, S3_WORD, REST_WORD = "one%very/secret+word", "the=s3/secret%key", "rest:secret/w@rd"
PLACES = "/etc /run /tmp /usr/lib/casemate /var/lib/casemate /var/log /root"


class Site:
    """`server` has object storage and a rest-server; `client` has a pod that writes, and makes backups there."""

    def __init__(self, server, client, directory):
        self.server, self.client, self.directory = server, client, directory
        self.vault = directory / "vault"
        self.vault.write_text("of the vault")
        self.ca = authority(directory, server.ip)
        hosts = json.loads(state.inventory_path().read_text())["appliance"]["hosts"]
        both = {
            "engine_default_handler": "runc", "pods_demo": True,
            "microvm_sizes": [{"name": "small", "memory_mib": 256, "vcpus": 1}],
        }  # fmt: skip
        serving = {
            "storage_volumes": [{"name": "objects"}, {"name": "tool"}], "objects_volume": "objects",
            "objects_addresses": ["127.0.0.1", "10.86.0.1", server.ip],
            "objects_users": [{"name": "edge", "secret": self.vaulted(S3_WORD)},
                              {"name": "other", "secret": self.vaulted("of-somebody-else")}],
            "objects_certificate": (directory / "server.pem").read_text(),
            "objects_certificate_key": self.vaulted((directory / "server.key").read_text()),
        }  # fmt: skip
        self.known = {"vars": both, "hosts": {
            server.name: hosts[server.name] | serving,
            client.name: hosts[client.name] | {
                "storage_volumes": [{"name": "orders"}], "pods": [pod("shop", "orders")], "backup_schedule": "",
                "backup_password": self.vaulted(REPOSITORY_WORD), "backup_ca": self.ca,
            },
        }}  # fmt: skip
        self.inventory = directory / "site.yml"
        self.write()

    def vaulted(self, text: str):
        return vaulted(text, self.vault)

    def write(self, **of_the_client) -> None:
        self.known["hosts"][self.client.name] |= of_the_client
        self.inventory.write_text(yaml.dump({"appliance": self.known}, Dumper=Dumper))

    def run(self, *words: str):
        environment = os.environ | {"ANSIBLE_VAULT_PASSWORD_FILE": str(self.vault)}
        return appliance(*words, "-i", str(self.inventory), env=environment)

    def well(self, *words: str) -> str:
        done = self.run(*words)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def ask(self, *words: str) -> dict:
        told = json.loads(self.well(*words, "--limit", self.client.name, "-o", "json"))
        return told["hosts"][0] if "hosts" in told else told

    def backup(self, *words: str):
        return self.run("backup", *words, "--limit", self.client.name)

    def to(self, repository: str, **environment: str) -> None:
        """Have the client's backups go there, with a status of their own."""
        self.write(
            backup_repository=repository,
            backup_environment={name: self.vaulted(word) for name, word in environment.items()},
        )
        self.well("deploy", "--limit", self.client.name)
        on_host(self.client, "rm", "-f", "/var/lib/casemate/backup/status.json")

    def lines(self) -> list[str]:
        return on_host(self.client, "cat", f"{VOLUMES}/orders/lines").split("\n")[:-1]


def authority(directory, address: str) -> str:
    """Write a private authority's certificate and that of a server at `address`, with its key; returns the first."""
    curve = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30"
    script = f"""
        openssl req -x509 {curve} -keyout ca.key -out ca.pem -subj /CN=authority
        openssl req {curve} -keyout server.key -out server.csr -subj /CN=server
        echo subjectAltName=IP:127.0.0.1,IP:10.86.0.1,IP:{address} > names
        openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 -extfile names \
            -out server.pem
    """
    subprocess.run(["sh", "-ec", script], cwd=directory, check=True, capture_output=True)
    return (directory / "ca.pem").read_text()


class Sampled:
    """What all processes of a host have as arguments while a block runs, and who may read restic's environment."""

    LOOP = (
        "while test -e /run/sampling; do cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '; "
        "p=$(pgrep -ox restic) && stat -c '%n %a' /proc/$p/environ 2>/dev/null "
        "&& setpriv --reuid=65534 --clear-groups cat /proc/$p/environ 2>/dev/null; sleep 0.05; done > /run/sampled"
    )

    def __init__(self, host):
        self.host, self.text = host, ""

    def __enter__(self):
        on_host(self.host, "touch", "/run/sampling")
        self._thread = threading.Thread(target=on_host, args=(self.host, "sh", "-c", self.LOOP))
        self._thread.start()
        return self

    def __exit__(self, *_):
        on_host(self.host, "rm", "/run/sampling")
        self._thread.join()
        self.text = on_host(self.host, "cat", "/run/sampled")
        on_host(self.host, "rm", "/run/sampled")


def nowhere_else(host, sampled: str, words: tuple[str, ...], files: set[str]) -> None:
    """Neither arguments nor the journal nor a file but `files` holds one of the words; nobody but root reads those."""
    assert "restic" in sampled and "/environ 400" in sampled
    journal = on_host(host, "journalctl", "--no-pager")
    for word in words:
        assert word not in sampled and word not in journal
        found = set(on_host(host, "sh", "-c", f'grep -rlsF -- "$0" {PLACES} || true', word).split())
        assert found and found <= files, found
        assert all(on_host(host, "stat", "-c", "%a %U", path) == "600 root\n" for path in found)


@pytest.fixture(scope="module")
def site(new_host, tmp_path_factory):
    server, client = new_host("oba"), new_host("obb")
    found = Site(server, client, tmp_path_factory.mktemp("servers"))
    found.well("deploy")
    images.load(server, "s3cmd")
    tool = pod("tool", "tool")
    tool["spec"]["containers"][0] |= {"image": images.reference("s3cmd"), "command": ["sleep", "86400"]}
    found.known["hosts"][server.name]["pods"] = [tool]
    found.write()
    found.well("deploy", "--limit", server.name)
    until(lambda: len(found.lines()) > 20)
    return found


def test_object_storage_is_well_and_told(site):
    told = json.loads(site.well("doctor", "--limit", site.server.name, "-o", "json"))["hosts"][0]["checks"]
    checks = {one["id"]: one["ok"] for one in told}
    assert checks[f"objects-{site.server.ip}"] and checks["objects-10.86.0.1"] and checks["objects-disk"]
    status = json.loads(site.well("status", "--limit", site.server.name, "-o", "json"))["hosts"][0]
    assert {one["name"]: one["state"] for one in status["components"]}["swift"] == "active"


def test_a_pod_puts_and_gets_an_object(site):
    where = "10.86.0.1:7480"
    config = (
        f"[default]\naccess_key = edge:edge\nsecret_key = {S3_WORD}\nhost_base = {where}\nhost_bucket = {where}\n"
        "use_https = True\nca_certs_file = /tmp/ca"
    )
    script = (
        f"cat > /tmp/ca <<'E'\n{site.ca}\nE\ncat > /tmp/config <<'E'\n{config}\nE\nexport HOME=/tmp; "
        's="python3 /usr/bin/s3cmd -c /tmp/config"; seq 100000 > /tmp/sent; $s mb s3://photos || $s ls s3://photos; '
        "$s put /tmp/sent s3://photos/seq; $s get --force s3://photos/seq /tmp/got; $s ls s3://photos; "
        "md5sum /tmp/sent /tmp/got"
    )
    argv = ["exec", "tool", "-i", str(site.inventory), "--limit", site.server.name, "--", "/bin/sh", "-ec", script]
    done = appliance(*argv, env=os.environ | {"ANSIBLE_VAULT_PASSWORD_FILE": str(site.vault)})
    assert done.returncode == 0 and "s3://photos/seq" in done.stdout, done.stdout + done.stderr
    assert len({line.split()[0] for line in done.stdout.splitlines()[-2:]}) == 1, done.stdout


def test_backups_go_to_object_storage_and_come_back(site):
    site.to(f"s3:https://{site.server.ip}:7480/backups", AWS_ACCESS_KEY_ID="edge:edge", AWS_SECRET_ACCESS_KEY=S3_WORD)
    there_and_back(site, S3_WORD)


def there_and_back(site, word: str) -> None:
    """A backup is made, listed, verified, and what it holds comes back; keys are where they belong all the while."""
    before = site.lines()
    with Sampled(site.client) as sampled:
        made = site.ask("backup", "now")
        assert site.ask("backup", "list")["backups"][-1]["id"] == made["id"]
        site.well("backup", "verify", "--limit", site.client.name)
    on_host(site.client, "sh", "-c", f"echo damaged > {VOLUMES}/orders/lines")
    site.ask("restore", "--volume", "orders", "--yes")
    assert len(before) > 20 and site.lines()[: len(before)] == before
    kept = {"/etc/casemate/backup.env", "/etc/casemate/backup.password"}
    nowhere_else(site.client, sampled.text, (REPOSITORY_WORD, word), kept)


def test_a_server_that_goes_away_for_a_while_is_waited_for(site):
    on_host(site.client, "sh", "-c", f"head -c 400M /dev/urandom > {VOLUMES}/orders/big")
    argv = [sys.executable, "-m", "appliance", "backup", "now", "-i", str(site.inventory), "--limit", site.client.name]
    environment = os.environ | {"ANSIBLE_VAULT_PASSWORD_FILE": str(site.vault)}
    run = subprocess.Popen(argv, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                           stderr=subprocess.PIPE, text=True)  # fmt: skip
    assert any("saving: " in line for line in run.stderr)
    on_host(site.server, "systemctl", "stop", "casemate-objects.socket")
    told = threading.Timer(40, on_host, (site.server, "systemctl", "start", "casemate-objects.socket"))
    told.start()
    out, err = run.communicate(timeout=400)
    told.join()
    assert run.returncode == 0, out + err
    assert "trying again: " in err
    on_host(site.client, "rm", f"{VOLUMES}/orders/big")
    site.well("backup", "verify", "--limit", site.client.name)


def test_a_server_that_is_gone_or_refuses_is_told_and_the_next_run_works(site):
    on_host(site.server, "systemctl", "stop", "casemate-objects.socket")
    gone = site.backup("now")
    on_host(site.server, "systemctl", "start", "casemate-objects.socket")
    assert gone.returncode == 1 and "cannot be reached" in gone.stdout, gone.stdout
    change = "cp -p {0} /root/kept && sed -i 's,{1},{2},' {0}"
    env, back = "/etc/casemate/backup.env", "mv /root/kept {0}"
    on_host(site.client, "sh", "-c", change.format(env, "KEY=.*", "KEY=wrong"))
    refused = site.backup("now")
    on_host(site.client, "sh", "-c", back.format(env))
    assert refused.returncode == 1 and "refuses us" in refused.stdout and "backup_environment" in refused.stdout
    on_host(site.client, "sh", "-c", "mv /etc/casemate/backup.ca /root/ca; cp /etc/ssl/certs/ca-certificates.crt "
            "/etc/casemate/backup.ca 2>/dev/null || openssl req -x509 -newkey rsa:2048 -nodes -keyout /dev/null "
            "-subj /CN=another -out /etc/casemate/backup.ca 2>/dev/null")  # fmt: skip
    stranger = site.backup("now")
    on_host(site.client, "mv", "/root/ca", "/etc/casemate/backup.ca")
    assert stranger.returncode == 1 and "backup_ca" in stranger.stdout, stranger.stdout
    site.ask("backup", "now")


def test_backups_go_to_a_rest_server_and_come_back(site):
    on_host(site.server, "sh", "-c", "apt-get -qq install rclone >/dev/null 2>&1; mkdir -p /srv/rest; umask 077; "
            "cat > /srv/rest.env", stdin=f"RCLONE_USER=edge\nRCLONE_PASS={REST_WORD}\n")  # fmt: skip
    for name in ("server.pem", "server.key"):
        on_host(site.server, "sh", "-c", f"umask 077; cat > /srv/{name}", stdin=(site.directory / name).read_text())
    on_host(site.server, "systemd-run", "--unit=rest", "-p", "EnvironmentFile=/srv/rest.env", "rclone", "serve",
            "restic", "--addr", f"{site.server.ip}:8000", "--cert", "/srv/server.pem", "--key", "/srv/server.key",
            "/srv/rest")  # fmt: skip
    site.to(f"rest:https://{site.server.ip}:8000/edge", RESTIC_REST_USERNAME="edge", RESTIC_REST_PASSWORD=REST_WORD)
    there_and_back(site, REST_WORD)
    assert "rest%3Asecret" not in on_host(site.client, "journalctl", "--no-pager")
    on_host(site.client, "sed", "-i", "s,PASSWORD=.*,PASSWORD=wrong,", "/etc/casemate/backup.env")
    refused = site.backup("now")
    assert refused.returncode == 1 and "refuses us" in refused.stdout, refused.stdout


def test_objects_are_in_a_backup_of_their_host_and_come_back_with_it(site):
    """While Swift runs: each object with what Swift knows of it, which is in extended attributes."""
    server = site.server.name
    site.known["hosts"][server] |= {"backup_repository": "/srv/backup", "backup_schedule": "",
                                    "backup_password": site.vaulted(REPOSITORY_WORD)}  # fmt: skip
    site.write()
    site.well("deploy", "--limit", server)
    site.well("backup", "now", "--limit", server, "--volume", "objects")
    ask = ["exec", "tool", "-i", str(site.inventory), "--limit", server, "--", "/bin/sh", "-ec"]
    environment = os.environ | {"ANSIBLE_VAULT_PASSWORD_FILE": str(site.vault), "HOME": "/root"}
    s3cmd = "export HOME=/tmp; python3 /usr/bin/s3cmd -q -c /tmp/config "
    assert appliance(*ask, f"{s3cmd} del s3://photos/seq", env=environment).returncode == 0
    site.well("restore", "--limit", server, "--volume", "objects", "--yes")
    done = appliance(
        *ask, f"{s3cmd} get --force s3://photos/seq /tmp/again; md5sum /tmp/again /tmp/sent", env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len({line.split()[0] for line in done.stdout.splitlines()}) == 1, done.stdout


def test_without_object_storage_its_services_go_and_what_is_stored_stays(site):
    server = site.server.name
    site.known["hosts"][server] |= {"objects_volume": ""}
    site.write()
    site.well("deploy", "--limit", server)
    listed = on_host(site.server, "sh", "-c", "systemctl list-units --plain --no-legend 'swift*' 'casemate-objects*'; "
                     "find /etc/casemate /etc/systemd -name '*objects*'; ss -Hltn | grep :7480 || true")  # fmt: skip
    assert listed == ""
    assert on_host(site.server, "sh", "-c", f"find {VOLUMES}/objects -name '*.data' | head -n 1") != ""
    site.known["hosts"][server] |= {"objects_volume": "objects"}
    site.write()
    site.well("deploy", "--limit", server)
    site.well("reset", "--limit", server, "--yes")
    left = on_host(site.server, "sh", "-c", "ls -d /etc/swift /etc/casemate 2>/dev/null; systemctl list-unit-files "
                   "--no-legend 'swift*' 'casemate-objects*' memcached.service || true")  # fmt: skip
    assert left == ""
