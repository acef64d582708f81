"""Real programs as microVM pods: driven through CRI on a deployed lab host by tests/inside/applications.py."""

import pytest

from tests import images
from tests.conftest import inside

pytestmark = pytest.mark.lab

QUICK, LONG = ("8", "10"), ("60", "100")  # seconds of pgbench, MiB of nginx's file


@pytest.fixture(scope="module", params=[QUICK, pytest.param(LONG, marks=pytest.mark.full)], ids=["quick", "long"])
def seen(deployed_host, request):
    images.load(deployed_host, *images.PACKAGES)
    return inside(deployed_host, "applications", *request.param, timeout=1500)


def test_busybox_runs(seen):
    assert seen["busybox"]["code"] == 0 and seen["busybox"]["output"].startswith("Linux\n")


def test_two_containers_of_a_python_pod_meet_on_localhost(seen):
    assert (seen["python"]["code"], seen["python"]["fetched"]) == (0, "from python")


def test_redis_has_every_key_it_acknowledged_after_it_was_killed(seen):
    assert seen["redis"]["set"] == ["+OK"]
    assert seen["redis"]["after"] == ["value-0", "value-49"] and seen["redis"]["size"] == ":50"


def test_nginx_serves_a_big_file_intact_ten_times_at_once(seen, record_property):
    record_property("mib_per_s", seen["nginx"]["mib_per_s"])
    assert seen["nginx"]["intact"] == 10


def test_postgresql_passes_pgbench(seen, record_property):
    record_property("tps", seen["postgres"]["tps"])
    assert seen["postgres"]["init"][0] == 0, seen["postgres"]["init"]
    assert seen["postgres"]["size"] == "medium"
    assert seen["postgres"]["pgbench"][0] == 0, seen["postgres"]["pgbench"]
    assert seen["postgres"]["failed"] == "0" and seen["postgres"]["tps"] > 0


def test_postgresql_keeps_what_it_acknowledged_when_its_virtual_machine_is_killed(seen):
    found = seen["postgres"]
    assert found["killed_code"] not in (0, None) and found["load_failed"]
    assert found["acknowledged"] >= 20 and found["lost"] == []
    assert found["recovered"] and found["consistent"] == "t"
    assert found["stopped_code"] == 0
