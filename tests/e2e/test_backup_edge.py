"""An edge node that lost its identity is the same node again after a restore, with no token.

EdgeCore and CloudCore are stand-ins (tests/standins).
"""

import hashlib
import json

import pytest

from tests.e2e.backup_site import SECRET
from tests.e2e.backup_site import pod as writer
from tests.e2e.edge_site import Site, until

pytestmark = [pytest.mark.lab, pytest.mark.full]
IDENTITY = "/etc/kubeedge/certs/server.crt /etc/kubeedge/certs/server.key /etc/kubeedge/ca/rootCA.crt"


@pytest.fixture(scope="module")
def site(new_host, tmp_path_factory):
    found = Site(new_host("be"), tmp_path_factory.mktemp("edge"))
    password = found.directory / "password"
    password.write_text(SECRET)
    found.vars |= {
        "backup_repository": "/srv/backup", "backup_password_file": str(password), "backup_schedule": "",
        "storage_volumes": [{"name": "orders"}], "pods_demo": True, "pods_demo_port": 8081,
        "pods": [writer("shop", "orders", app="shop")],
    }  # fmt: skip
    yield found
    found.close()


def program(site: Site, *words: str) -> dict:
    return json.loads(site.run("/usr/lib/casemate/bin/casemate-backup", *words).splitlines()[-1])


def connected(site: Site) -> bool:
    return until(lambda: site.finding("edge-core").get("ok"), lambda ok: ok, 90)


def test_an_edge_node_comes_back_as_itself(site):
    assert (done := site.deploy()).code == 0, done.failure or done.said
    before = hashlib.sha256(site.run("sh", "-c", f"cat {IDENTITY}").encode()).hexdigest()
    made = program(site, "now")
    # its certificates and its database are gone
    site.run("systemctl", "stop", "edgecore")
    site.run("sh", "-c", "rm -rf /etc/kubeedge/certs/* /etc/kubeedge/ca/* /var/lib/kubeedge/edgecore.db")
    told = program(site, "restore", "--snapshot", made["id"])
    assert told["edge"]["node"] == site.host.name and told["edge"]["refused"] == ""
    assert hashlib.sha256(site.run("sh", "-c", f"cat {IDENTITY}").encode()).hexdigest() == before
    site.run("systemctl", "start", "edgecore")
    assert connected(site)
    # and a host that is no node becomes it by a deploy, for which there is no token any more
    assert site.deploy(edge_provider="none").code == 0
    assert site.run("sh", "-c", "ls /etc/kubeedge 2>/dev/null || true") == ""
    program(site, "restore", "--snapshot", made["id"])
    again = site.deploy(edge_token_file=None)
    assert again.code == 0, again.failure or again.said
    assert connected(site)
    assert hashlib.sha256(site.run("sh", "-c", f"cat {IDENTITY}").encode()).hexdigest() == before


def test_another_node_is_not_given_its_identity(site):
    site.run("sed", "-i", 's/"node_name": "[^"]*"/"node_name": "another"/', "/etc/casemate/edge.json")
    told = program(site, "restore", "--dry-run")
    assert "this host is another: set edge_node_name" in told["edge"]["refused"]
