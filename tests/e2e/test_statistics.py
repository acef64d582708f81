"""What pods use and cost, in both handlers, on a deployed lab host: tests/inside/stats.py."""

import pytest

from tests.conftest import inside

pytestmark = pytest.mark.lab
HELD = 50 << 20


@pytest.fixture(scope="module", params=["runc", "microvm"])
def seen(request, deployed_host):
    return inside(deployed_host, "stats", request.param)[request.param]


def test_a_container_that_computes_is_seen_to_and_an_idle_one_is_not(seen):
    busy, idle = seen["containers"]["busy"], seen["containers"]["idle"]
    assert busy["cpu_seconds"] > idle["cpu_seconds"] > 0
    assert busy["cpu"] > 10 * idle["cpu"]
    assert idle["cpu"] < 0.05


def test_what_a_container_holds_is_seen_with_it_and_with_no_other(seen):
    holds, idle = (seen["containers"][name]["working_set_bytes"] for name in ("holds", "idle"))
    assert HELD <= holds < 1.3 * HELD
    assert 0 < idle < HELD / 5


def test_the_host_pays_at_least_for_what_the_containers_hold(seen):
    assert seen["host"]["memory_bytes"] >= HELD
    assert seen["host"]["cpu"] > 0
    # A guest that waits for a processor of a busy host takes the wait for work, so seconds are not compared.
    assert seen["host"]["working_set_bytes"] >= 0.9 * sum(
        use["working_set_bytes"] for use in seen["containers"].values()
    )


def test_the_engine_tells_the_same_of_the_pod_whose_control_group_goes_with_it(seen):
    assert 0.8 < seen["cri"]["memory_bytes"] / seen["host"]["memory_bytes"] < 1.25
    assert seen["cri"]["cpu_ns"] >= seen["host"]["cpu_seconds"] * 0.9e9
    assert seen["left"] == []


def test_the_runtime_prints_what_its_guest_says(seen):
    if "printed" in seen:
        assert HELD <= seen["printed"]["containers"]["holds"]["working_set_bytes"] < 1.3 * HELD
        guest = seen["printed"]["guest"]
        assert HELD < guest["memory_bytes"] - guest["available_bytes"] < guest["memory_bytes"]
