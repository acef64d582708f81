"""Base: one transaction of packages, and the node programs."""

import hashlib

from appliance.archive import node_archive


def test_the_packages_asked_for_are_installed(host):
    assert host.package("tree").is_installed


def test_the_node_programs_are_those_of_this_checkout(host):
    expected = node_archive()
    assert host.file("/usr/lib/casemate/current").linked_to == f"/usr/lib/casemate/node/{expected['id']}"
    sent = hashlib.sha256(host.file("/usr/lib/casemate-node.pyz").content).hexdigest()
    assert sent == expected["sha256"]


def test_each_launcher_runs_and_tells_its_usage(host):
    for launcher in ("casemate-health", "casemate-microvm", "casemate-pod", "casemate-images"):
        program = f"/usr/lib/casemate/bin/{launcher}"
        assert host.file(program).mode == 0o755, launcher
    assert "usage" in host.check_output("/usr/lib/casemate/bin/casemate-health --help")


def test_the_policy_that_kept_services_from_starting_is_gone(host):
    assert not host.file("/usr/sbin/policy-rc.d").exists
