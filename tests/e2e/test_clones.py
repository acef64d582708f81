"""Guests of one template on a deployed lab host: what each of them draws, no other may have drawn."""

import pytest

from tests.conftest import inside

pytestmark = pytest.mark.lab

WIDE = ("boot_id", "uuid", "machine_id", "getrandom", "urandom", "at_random")


def no_two_alike(drawn, count):
    assert len(drawn) == count
    assert len({clone["hostname"] for clone in drawn}) == count
    values = [clone[name] for clone in drawn for name in WIDE]
    assert len(set(values)) == len(values), "122 bits or more each: no value may come twice, wherever it was read"
    # 28 and 32 bits at least: by chance, two of a thousand are alike once in 500 and once in 8000 such runs
    for name in ("layout", "tcp"):
        assert len({str(clone[name]) for clone in drawn}) >= count - 2


def test_no_two_clones_draw_alike(deployed_host):
    seen = inside(deployed_host, "clones", "12")
    no_two_alike(seen["drawn"], 12)
    one, other = seen["as saved"]
    assert one["getrandom"] == other["getrandom"], "clones that are given no seed do not show that a seed is needed"


@pytest.mark.full
def test_no_two_of_a_thousand_clones_draw_alike(deployed_host):
    no_two_alike(inside(deployed_host, "clones", "1000", timeout=7200)["drawn"], 1000)
