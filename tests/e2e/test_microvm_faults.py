"""No space left, two makers at once, names that no engine would make: clear errors, and nothing half-done.

tests/inside/full.py does it on a lab host.
"""

import pytest

from tests.conftest import inside

pytestmark = pytest.mark.lab


def test_no_space_left_on_run_refuses_the_next_pod_and_leaves_the_first_alone(deployed_host):
    seen = inside(deployed_host, "full", "run")["run"]
    assert "no space left on device" in seen["refused"].lower()
    assert seen["state"] == 1  # CONTAINER_RUNNING
    assert seen["alive"] == [0, "alive\n"]
    assert (seen["afterwards"], seen["left"]) == (5, {})


def test_a_name_that_is_no_id_is_refused_before_anything_is_touched(deployed_host):
    for told in inside(deployed_host, "full", "names")["names"].values():
        for code, error in told:
            assert code == 1 and "is no id of a container" in error


@pytest.mark.full
def test_prepare_on_a_full_file_system_says_so_and_leaves_nothing(deployed_host):
    seen = inside(deployed_host, "full", "state", timeout=1800)["state"]
    for what in seen.values():
        assert what["code"] == 1 and not what["left"], what
        assert "space" in what["error"][0], what


@pytest.mark.full
def test_of_two_makers_at_once_one_makes_and_the_other_finds(deployed_host):
    seen = inside(deployed_host, "full", "prepare", timeout=1800)["prepare"]
    assert seen == {"codes": [0, 0], "made": [False, True], "left": []}
