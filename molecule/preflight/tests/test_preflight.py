"""Preflight looks and writes nothing: the scenario's play reached its end although the host lacks ten terabytes."""

import json
import re
from pathlib import Path

import pytest

from appliance.archive import node_archive


@pytest.fixture(scope="module")
def preflight(host):
    """Runs the health program on the host as the role does, sent along and not installed; returns its answer."""
    program = Path(node_archive()["path"]).read_bytes()
    target = Path(host.backend.root) / "var/tmp/molecule-node.pyz"
    target.write_bytes(program)

    def look(**params) -> dict:
        return json.loads(
            host.check_output("python3 /var/tmp/molecule-node.pyz health preflight --params %s", json.dumps(params))
        )

    yield look
    target.unlink()


def test_the_facts_describe_the_host(host, preflight):
    facts = preflight(offline=True)["facts"]
    assert facts["distribution"] == "debian"
    assert facts["distribution_release"] == host.check_output(". /etc/os-release; echo $VERSION_CODENAME")
    assert facts["init"] == "systemd"
    assert facts["architecture"] == "x86_64"
    assert re.fullmatch(r"v[12]", facts["cgroup"])


def test_a_missing_terabyte_of_memory_is_one_finding_with_cause_and_cure(preflight):
    def errors(**required: int) -> dict[str, dict]:
        checks = preflight(offline=True, **required)["checks"]
        return {one["id"]: one for one in checks if not one["ok"] and one["severity"] == "error"}

    # the host is shared by all scenarios, and what one before left on its disk may be a finding, too
    before, found = errors(), errors(memory_required_mib=10_000_000)
    assert found.keys() - before.keys() == {"memory"} and before.keys() <= found.keys()
    assert found["memory"]["cause"] and found["memory"]["cure"]


def test_the_role_stops_at_an_error_that_is_not_ignored_and_shows_it(converge):
    done = converge("--extra-vars", json.dumps({"preflight_ignore": []}))
    assert done.returncode == 2, done.stdout
    assert "memory:" in done.stdout and "cure:" in done.stdout
