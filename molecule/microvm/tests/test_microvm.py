"""MicroVM: the guest image, the accelerator's answer and the template are made and current."""

import json

import pytest


@pytest.fixture(scope="module")
def status(host) -> dict:
    """What the runtime says is there."""
    return json.loads(host.check_output("/usr/lib/casemate/bin/casemate-microvm status"))


def test_nothing_is_left_to_make(host, status):
    assert status["current"], status["missing"]
    said = json.loads(host.check_output("/usr/lib/casemate/bin/casemate-microvm prepare --check"))
    assert said["changed"] is False


def test_an_accelerator_was_decided_by_trying(status):
    assert status["accelerator"] in ("tcg", "kvm")
    assert status["evidence"]


def test_the_declared_size_has_a_template(status):
    assert [(t["size"], t["ready"]) for t in status["templates"]] == [("tiny", True)]


def test_the_guest_kernel_is_not_the_hosts(host, status):
    assert status["image"]["guest_kernel"]
    assert status["image"]["guest_kernel"] != host.check_output("uname -r")
