"""`plan` on a bare host: it tells everything and writes nothing."""

import pytest

from tests.conftest import appliance

pytestmark = pytest.mark.lab


def test_plan_on_a_bare_host_lists_changes_of_every_part(bare):
    assert bare.code == 0
    phases = {e["phase"] for e in bare.planned if e["event"] == "change"}
    assert phases >= {"base", "storage", "engine", "microvm", "pods", "monitoring"}
    (host,) = bare.planned[-1]["hosts"]
    assert host["changed"] > 5
    assert host["failed"] == 0
    assert host["state"] == "changed"


def test_plan_on_a_bare_host_writes_nothing(bare):
    assert bare.after_plan == []


def test_plan_with_detailed_exitcode_ends_3_on_a_bare_host(bare):
    assert appliance("plan", "--limit", bare.host.name, "--detailed-exitcode").returncode == 3


def test_reset_changes_nothing_on_a_host_that_was_never_deployed(bare):
    done = appliance("reset", "--yes", "--limit", bare.host.name, "-o", "json")
    assert done.returncode == 0
    assert '"changed": 0' in done.stdout.splitlines()[-1]
    assert not (bare.host.root / "var/lib/casemate").exists()


def test_status_says_of_a_bare_host_that_it_is_not_deployed(bare):
    done = appliance("status", "--limit", bare.host.name, "-o", "json")
    assert done.returncode == 0
    assert '"not deployed"' in done.stdout
