"""A host that is gone: its pods and what they wrote come back on a new one, also of a newer Debian, by sftp."""

import time

import pytest

from appliance.lab import manage
from tests.conftest import on_host
from tests.e2e.backup_site import VOLUMES, Site, pod, sftp_server
from tests.e2e.edge_site import until

pytestmark = [pytest.mark.lab, pytest.mark.full]


@pytest.fixture(scope="module")
def access(new_host, tmp_path_factory):
    """What reaches a lab host that is nothing but an sftp server, and the directory of its keys."""
    directory = tmp_path_factory.mktemp("access")
    return sftp_server(new_host("st"), directory), directory


@pytest.mark.parametrize("release", ["bookworm", "trixie"])
def test_a_host_that_was_destroyed_lives_on_in_another(access, new_host, release, record_property):
    variables, directory = access
    one, other = new_host(f"r{release[0]}a"), new_host(f"r{release[0]}b", release=release)
    # the first has the pod from its inventory; the other one's names none, and its pool has no volume yet
    own = {other.name: {"pods": [], "storage_volumes": []}}
    site = Site(one, directory, other, own=own, pods=[pod("shop", "orders", app="shop")],
                storage_volumes=[{"name": "orders", "size": "64M"}], **variables)  # fmt: skip
    site.deploy()
    assert until(lambda: site.last("orders"), lambda found: found > 20) > 20
    before = site.last("orders")
    site.ask("backup", "now")
    manage.down([one.name])
    began = time.monotonic()
    there = site.at(other)
    there.deploy()
    there.ask("restore", "--from", one.name, "--pod", "shop", "--yes")
    record_property("seconds", time.monotonic() - began)
    print(f"{release}: {time.monotonic() - began:.0f} s from a bare host to the pods of the one that is gone")
    lines = on_host(other, "cat", f"{VOLUMES}/orders/lines").split()
    assert lines[:before] == [str(number + 1) for number in range(before)]
    there.deploy()  # the inventory does not name the pod, which stays all the same
    pods = {one["name"]: one["ready"] for one in there.ask("status")["pods"]}
    assert pods == {"demo": True, "shop": True}
