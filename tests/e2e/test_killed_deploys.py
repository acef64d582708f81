"""A deploy killed at any moment: the same command then completes, and the host is well."""

import random

import pytest

from appliance.lab import manage
from tests.conftest import appliance
from tests.e2e.conftest import events, seed
from tests.e2e.kill import deploy_killed

pytestmark = [pytest.mark.lab, pytest.mark.full]


@pytest.mark.parametrize("case", range(5))
def test_a_deploy_killed_at_a_random_moment_completes_when_it_is_run_again(new_host, case):
    host = new_host(f"k{case}")
    deploy_killed(host, random.Random(f"{seed()} {case}"))
    done = appliance("deploy", "--limit", host.name, "-o", "json")
    assert done.returncode == 0, [e for e in events(done.stdout) if e["event"] == "failure"]
    assert appliance("doctor", "--limit", host.name).returncode == 0
    manage.down([host.name])
