"""Fifteen filters, of a backup and of a restore, against what arrives on an empty host: exactly that."""

import pytest

from tests.e2e.backup_site import VOLUMES, Site, sftp_server, vaulted

pytestmark = [pytest.mark.lab, pytest.mark.full]

# name: labels, volumes, ConfigMaps, Secrets
PODS = {
    "db": ({"app": "shop", "tier": "db"}, ["orders"], [], ["db-password"]),
    "web": ({"app": "shop", "tier": "web"}, ["uploads"], ["web-conf"], []),
    "cache": ({"app": "shop", "tier": "cache"}, [], [], []),
    "blog": ({"app": "blog"}, ["posts", "uploads"], ["web-conf"], ["blog-key"]),
    "plain": ({}, [], [], []),
}
VOLUME_NAMES = ["orders", "uploads", "posts", "scratch"]
ALL = "blog cache db plain web"
# words of the command; pods, volumes, ConfigMaps and Secrets that must arrive, and no others
TABLE = [
    ("", ALL, "orders posts scratch uploads", "web-conf", "blog-key db-password"),
    ("--pod db", "db", "orders", "", "db-password"),
    ("--pod web --pod cache", "cache web", "uploads", "web-conf", ""),
    ("--select app=shop", "cache db web", "orders uploads", "web-conf", "db-password"),
    ("--select app=shop,tier!=cache", "db web", "orders uploads", "web-conf", "db-password"),
    ("--select tier\u00a0in\u00a0(db,web)", "db web", "orders uploads", "web-conf", "db-password"),
    ("--select app,!tier", "blog", "posts uploads", "web-conf", "blog-key"),
    ("--select !app", "plain", "", "", ""),
    ("--volume scratch", "", "scratch", "", ""),
    ("--volume scratch --volume posts", "", "posts scratch", "", ""),
    ("--pod db --volume scratch", "db", "orders scratch", "", "db-password"),
    ("--exclude-volume scratch", ALL, "orders posts uploads", "web-conf", "blog-key db-password"),
    ("--exclude-pod blog", "cache db plain web", "orders scratch uploads", "web-conf", "db-password"),
    ("--select app=shop --exclude-pod web", "cache db", "orders", "", "db-password"),
    ("--select app=shop --exclude-volume uploads --volume scratch", "cache db web", "orders scratch", "web-conf",
     "db-password"),
]  # fmt: skip


def manifest(name: str) -> dict:
    labels, volumes, configmaps, secrets = PODS[name]
    container = {"name": "main", "image": "localhost/casemate/demo:1", "imagePullPolicy": "Never",
                 "command": ["/bin/sh", "-c", "while :; do sleep 1; done"]}  # fmt: skip
    found = [{"name": one, "persistentVolumeClaim": {"claimName": one}} for one in volumes]
    found += [{"name": one, "configMap": {"name": one}} for one in configmaps]
    found += [{"name": one, "secret": {"secretName": one}} for one in secrets]
    container["volumeMounts"] = [{"name": one["name"], "mountPath": f"/{one['name']}"} for one in found]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels},
            "spec": {"containers": [container], "volumes": found, "terminationGracePeriodSeconds": 0}}  # fmt: skip


@pytest.fixture(scope="module")
def pair(new_host, tmp_path_factory):
    """The site at the host that has all of it, and at one that has nothing."""
    directory = tmp_path_factory.mktemp("selections")
    one, other = new_host("sa"), new_host("sb")
    access = sftp_server(one, directory)
    word = vaulted("a word", directory / "vault")
    full = {
        "pods": [manifest(name) for name in PODS],
        "storage_volumes": [{"name": name} for name in VOLUME_NAMES],
        "pods_configmaps": [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "web-conf"},
                             "data": {"a": "b"}}],
        "pods_secrets": [{"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": {"a": word}}
                         for name in ("db-password", "blog-key")],
    }  # fmt: skip
    site = Site(one, directory, other, own={one.name: full, other.name: access}, pods=[], storage_volumes=[])
    for host in (one, other):
        site.at(host).deploy()
    for name in VOLUME_NAMES:
        site.sh(f"echo of {name} > {VOLUMES}/{name}/file")
    return site, site.at(other)


def arrived(other: Site) -> tuple[str, ...]:
    """What is there of each kind; then the host is emptied again."""
    script = f"""
cd /etc/casemate/pods; ls *.yaml 2>/dev/null | grep -v demo | sed 's/.yaml//' | sort | xargs echo
cd {VOLUMES}; for one in *; do [ "$(cat $one/file)" = "of $one" ] && echo $one; done | sort | xargs echo
ls /etc/casemate/configmaps 2>/dev/null | sed 's/.yaml//' | sort | xargs echo
ls /etc/casemate/secrets 2>/dev/null | sed 's/.yaml//' | sort | xargs echo
find /etc/casemate/pods -name '*.yaml' ! -name demo.yaml -delete
/usr/lib/casemate/bin/casemate-pod sync --wait=60 >/dev/null
rm -f /etc/casemate/configmaps/* /etc/casemate/secrets/*
btrfs subvolume delete {VOLUMES}/* >/dev/null 2>&1 || true
ls {VOLUMES}
"""
    pods, volumes, configmaps, secrets, *left = other.sh(script).split("\n")
    assert left == [""], left
    return pods, volumes, configmaps, secrets


@pytest.fixture(scope="module")
def whole(pair) -> str:
    return pair[0].ask("backup", "now")["id"]


@pytest.mark.parametrize(("words", *("pods", "volumes", "configmaps", "secrets")), TABLE, ids=[row[0] for row in TABLE])
def test_what_a_filter_means_arrives_and_nothing_else(pair, whole, words, pods, volumes, configmaps, secrets):
    site, other = pair
    wanted = [word.replace("\u00a0", " ") for word in words.split(" ") if word]
    # a pod whose volume is left out comes, and waits for it
    code, said = (1, "the pool has no volume 'uploads'") if "--exclude-volume uploads" in words else (0, "")
    done = other.run("restore", "--from", site.host.name, "--backup", whole, "--yes", *wanted)
    assert done.returncode == code and said in done.stdout, done.stdout + done.stderr
    assert arrived(other) == (pods, volumes, configmaps, secrets)
    part = site.ask("backup", "now", *wanted)["id"]
    assert other.run("restore", "--from", site.host.name, "--backup", part, "--yes").returncode == code
    assert arrived(other) == (pods, volumes, configmaps, secrets)
