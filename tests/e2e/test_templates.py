"""Templates on a deployed lab host: cold boots by choice, and damage, which costs time but no pod."""

import pytest

from tests.conftest import inside

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def seen(deployed_host):
    return inside(deployed_host, "templates", timeout=3600)


def test_a_pod_boots_cold_where_its_annotation_says_so(seen):
    found = seen["cold by choice"]
    assert (found["started_from"], found["notes"], found["template_broken"]) == ("cold", [], False)


def test_an_annotation_that_means_nothing_is_refused_by_name(seen):
    assert "io.casemate.microvm/boot: warm" in seen["other value"]
    assert "io.casemate.microvm/size: big" in seen["other name"]


def test_a_template_that_qemu_refuses_costs_a_cold_boot_and_is_made_again_by_the_unit(seen):
    found = seen["devices cut"]
    assert (seen["ready"], found["started_from"], found["template_broken"]) == (True, "cold", True)
    assert "the template could not be used" in found["notes"][0]
    assert "the last one was broken" in seen["dropped"]
    assert seen["made again"] is True
    assert (seen["after"]["started_from"], seen["after"]["notes"]) == ("template", [])


@pytest.mark.full
def test_every_other_damage_is_noticed_and_mended(deployed_host):
    seen = inside(deployed_host, "templates", "all", timeout=7200)
    wiped, cut = seen["memory wiped"], seen["memory cut"]
    assert wiped["started_from"] == "cold" and "the template could not be used" in wiped["notes"][0]
    assert cut["started_from"] == "cold" and "memory was written to after it was made" in cut["notes"][0]
    assert seen["bit flipped, by a look"] == ""
    assert seen["bit flipped, verified"][0] == 0 and "is not what was written" in seen["bit flipped, verified"][1]
    assert "none was made yet" in seen["maker killed"][0] and seen["maker killed"][1] == 0
    assert seen["left"] == []
    made = ("wiping", "cutting", "the bit", "the kill")
    assert [seen[f"made again after {damage}"] for damage in made] == [True] * 4
