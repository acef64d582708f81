"""A SIGKILL to any process of a pod, in any state of it: reported as a failure or survived, and nothing stays behind.

tests/inside/crashes.py makes the cases on a lab host. Where the moment is random, CASEMATE_SEED repeats a run.
"""

import pytest

from tests.conftest import inside
from tests.e2e.conftest import seed

pytestmark = pytest.mark.lab

SURVIVES = ("containerd", "exec stand-in")  # their end is not the pod's
POD_ENDS = ("qemu", "supervisor", "shim", "kernel")


def test_a_kill_is_reported_or_survived_and_leaves_nothing(deployed_host):
    judge(inside(deployed_host, "crashes", seed(), "plain", timeout=1200)["rows"])


@pytest.mark.full
@pytest.mark.parametrize("when", ["states", "moments"])
def test_a_kill_of_every_process(deployed_host, record_property, when):
    rows = inside(deployed_host, "crashes", seed(), when, timeout=3600)["rows"]
    record_property("rows", rows)
    judge(rows)


def judge(rows: list[dict]) -> None:
    """Assert what must hold of each case, and show every one of which it does not."""
    assert rows
    wrong = []
    for row in rows:
        try:
            judge_one(row)
        except AssertionError as error:
            wrong.append(f"{row}: {str(error).splitlines()[-1]}")
    assert not wrong, "\n".join(wrong)


def judge_one(row: dict) -> None:
    state, _, victim = row["case"].partition(" ")
    assert "broken" not in row, row
    # containerd 1.6 never lets go of a shim that was creating when it was killed itself (containerd/containerd#6860)
    assert not row["left"] or (state, victim, row.get("engine", "")[:3]) == ("creating", "containerd", "1.6"), row
    if state in ("creating", "starting"):  # at a random moment: what was made is whole, or refused with a reason
        assert row["hit"] or row["error"] is None, row
        assert row["code"] != 0, row
        assert not row.get("in_guest"), row
        return
    assert row["hit"], row
    if state == "frozen":  # nothing has ended yet; what matters is that it could be removed, within CRI's deadline
        assert row["error"] or victim == "stand-in", row
        return
    if state == "paused" and victim != "shim":  # nothing of a frozen container can end; its pod can, and all can go
        assert victim not in POD_ENDS or not row["ready"], row
        return
    if victim in SURVIVES:
        assert state == "stopping" or row["exec"] == [0, "alive\n"], row
        assert row["ready"], row
    elif state != "up":
        assert row["code"] not in (0, None), row
    if victim in POD_ENDS:
        assert not row["ready"], row
    if state in ("executing", "panicked"):
        assert row["error"], row
