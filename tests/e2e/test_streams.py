"""Streaming Exec, Attach and PortForward on a deployed lab host, by tests/inside/streams.py, in both handlers."""

import re

import pytest

from tests.conftest import inside

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module", params=["runc", "microvm"])
def seen(request, deployed_host):
    return inside(deployed_host, "streams", request.param)[request.param]


def test_exec_keeps_both_outputs_apart_and_passes_the_exit_code_on(seen):
    assert seen["apart"] == [7, "out\n", "err\n"]


def test_input_reaches_the_program_and_so_does_its_end(seen):
    assert seen["input"] == [0, "<a>\n<b>\nend\n", ""]
    assert seen["megabyte"] == [0, True]


def test_a_terminal_has_the_size_that_it_is_given_and_follows_it(seen):
    said = seen["terminal"]
    assert said.index("33 77") < said.index("go") < said.index("44 88")
    assert seen["terminal_code"] == 3


def test_a_program_that_is_not_there_fails_in_the_runtimes_words(seen):
    assert "/no/such/program" in seen["missing"] and "no such file or directory" in seen["missing"].lower()


def test_attach_joins_the_containers_own_program(seen):
    assert seen["attach"] == [0, "<one>\n<two>\n"]
    assert seen["attached_code"] == 5


def test_a_forwarded_port_reaches_the_pod_and_one_where_nobody_listens_is_refused(seen):
    assert seen["forward"] == ["hello"]
    # Where the pod has a guest, the engine's connection ends there, and only then is it known that nobody listens.
    assert not seen["forward_nothing"] or re.search("connection re(fused|set)", seen["forward_nothing"])
