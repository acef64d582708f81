"""PostgreSQL in a microVM under pgbench: saved twenty times while it writes, each time sound on a second host."""

import pytest

from tests import images
from tests.e2e.backup_site import VOLUMES, Site, sftp_server
from tests.e2e.edge_site import until

pytestmark = [pytest.mark.lab, pytest.mark.full]
BACKUPS = 20
POSTGRES = 999  # its user in the image
PATH = "export PATH=/usr/lib/postgresql/15/bin:$PATH; "
SERVER = """
if [ ! -s /data/pg/PG_VERSION ]; then
    initdb -D /data/pg -A trust --locale=C --data-checksums
fi
exec postgres -D /data/pg -c unix_socket_directories=/tmp -c jit=off -c shared_buffers=32MB
"""
LOAD = """
( until psql -qh /tmp -c 'select 1' postgres; do sleep 1; done
  pgbench -qi -h /tmp postgres
  pgbench -n -h /tmp -c 2 -T 100000 postgres &
  i=0; while :; do i=$((i+1)); echo $i >> /data/counter; sleep 0.2; done ) > /dev/null 2>&1 &
"""


def pod(load: str) -> dict:
    """A pod `db` on the volume `db`, in a microVM."""
    claim = [{"name": "data", "persistentVolumeClaim": {"claimName": "db"}}]
    container = {
        "name": "postgres", "image": images.reference("postgres"), "imagePullPolicy": "Never",
        "command": ["/bin/sh", "-c", PATH + load + SERVER], "volumeMounts": [{"name": "data", "mountPath": "/data"}],
        "resources": {"limits": {"memory": "400Mi"}},
    }  # fmt: skip
    user = {
        "runAsUser": POSTGRES,
        "runAsGroup": POSTGRES,
        "fsGroup": POSTGRES,
        "fsGroupChangePolicy": "OnRootMismatch",
    }  # its server refuses a directory that its group may write to
    spec = {"containers": [container], "volumes": claim, "terminationGracePeriodSeconds": 10, "securityContext": user,
            "runtimeClassName": "microvm"}  # fmt: skip
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "db"}, "spec": spec}


@pytest.fixture(scope="module")
def pair(new_host, tmp_path_factory):
    """The site at the host whose PostgreSQL is under load, and at the one where the same pod has nothing to do."""
    directory = tmp_path_factory.mktemp("postgres")
    one, other = new_host("pa"), new_host("pb")
    variables = {
        "microvm_sizes": [{"name": "medium", "memory_mib": 512, "vcpus": 1}], "storage_volumes": [{"name": "db"}],
        "engine_default_handler": "microvm", "pods_demo": False, "pods": [],
    }  # fmt: skip
    access = sftp_server(one, directory)
    bare = Site(one, directory, other, own={other.name: access}, **variables)
    for host in (one, other):
        bare.at(host).deploy()
        images.load(host, "postgres")
    own = {one.name: {"pods": [pod(LOAD)]}, other.name: access | {"pods": [pod("")]}}
    site = Site(one, directory, other, own=own, **variables)
    for host in (one, other):
        site.at(host).deploy()
    return site, site.at(other)


def sql(site: Site, text: str) -> str:
    done = site.run("exec", "db", "--", "/bin/sh", "-c", f'{PATH} psql -qAth /tmp postgres -c "{text}"')
    return done.stdout.strip() if done.returncode == 0 else done.stderr


def test_each_of_twenty_backups_under_load_is_sound_on_another_host(pair):
    site, other = pair
    until(lambda: sql(site, "select count(*) > 100 from pgbench_history"), lambda found: found == "t", 180)
    rows = []
    for number in range(BACKUPS):
        counter = int(site.sh(f"tail -n 1 {VOLUMES}/db/counter"))
        history = int(sql(site, "select count(*) from pgbench_history"))
        made = site.ask("backup", "now")
        other.ask("restore", "--from", site.host.name, "--backup", made["id"], "--volume", "db", "--yes")
        assert until(lambda: sql(other, "select 1"), lambda found: found == "1", 120) == "1", number
        check = f"{PATH} pg_amcheck -h /tmp --install-missing --heapallindexed --all"
        checked = other.run("exec", "db", "--", "/bin/sh", "-c", check)
        same = sql(other, "select (select sum(abalance) from pgbench_accounts) = "
                          "(select sum(delta) from pgbench_history)")  # fmt: skip
        rows.append({
            "sound": (checked.returncode, checked.stdout.strip(), same) == (0, "", "t"),
            "history": int(sql(other, "select count(*) from pgbench_history")) - history,
            "counter": int(other.sh(f"tail -n 1 {VOLUMES}/db/counter")) - counter,
        })  # fmt: skip
        print(number, rows[-1], checked.stdout[-300:], checked.stderr[-300:])
    assert [row for row in rows if not row["sound"]] == [] and len(rows) == BACKUPS
    assert min(row["counter"] for row in rows) >= 0 and min(row["history"] for row in rows) >= 0
    assert max(row["history"] for row in rows) > 0  # it did write
