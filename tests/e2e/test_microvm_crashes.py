"""A SIGKILL to any process of a pod, in any state of it: reported as a failure or survived, and nothing stays behind.

tests/inside/crashes.py makes the cases on a lab host. Where the moment is random, CASEMATE_SEED repeats a run.
"""

import pytest

from tests.conftest import inside
from tests.e2e.conftest import seed

pytestmark = pytest.mark.lab

SURVIVES = ("containerd", "exec stand-in")  # their end is not the pod's
POD_ENDS = ("qemu", "supervisor", "shim", "kernel")


@pytest.fixture(scope="module")
def few(deployed_host):
    return inside(deployed_host, "crashes", seed(), "plain", timeout=1200)["rows"]


@pytest.fixture(scope="module")
def all_of_them(deployed_host):
    return inside(deployed_host, "crashes", seed(), "all", timeout=5400)["rows"]


def test_a_kill_is_reported_or_survived_and_leaves_nothing(few):
    judge(few)


@pytest.mark.full
def test_a_kill_of_every_process_in_every_state(all_of_them):
    judge(all_of_them)


def judge(rows: list[dict]) -> None:
    """Assert what must hold of each case."""
    assert rows
    for row in rows:
        state, _, victim = row["case"].partition(" ")
        assert "broken" not in row, row
        assert not row["left"], row
        if state in ("creating", "starting"):  # at a random moment: what was made is whole, or refused with a reason
            assert row["hit"] or row["error"] is None, row
            assert row["code"] != 0, row
            assert not row.get("in_guest"), row
            continue
        assert row["hit"], row
        if state == "frozen":  # nothing has ended yet; what matters is that it could be removed, within CRI's deadline
            assert row["error"] or victim == "stand-in", row
            continue
        if victim in SURVIVES:
            assert row["exec"] == [0, "alive\n"] or state == "stopping", row
            assert row["ready"], row
        elif state == "paused" and victim == "qemu":  # nothing of a frozen container can end; its pod has
            assert not row["ready"], row
        elif state != "up":
            assert row["code"] not in (0, None), row
        if victim in POD_ENDS:
            assert not row["ready"], row
        if state in ("executing", "panicked"):
            assert row["error"], row
