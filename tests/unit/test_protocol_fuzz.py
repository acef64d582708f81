"""Both ends of the protocol between host and guest, fuzzed by tests/fuzz: shortly here, longer with --full."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def fuzz(target, *options):
    return subprocess.run(
        [sys.executable, "-m", "tests.fuzz", target, "-print_final_stats=1", *options],
        cwd=ROOT, capture_output=True, text=True, timeout=900,
    )  # fmt: skip


@pytest.mark.parametrize("target", ["host", "agent"])
@pytest.mark.parametrize("seconds, seed", [(10, "1"), pytest.param(300, "0", marks=pytest.mark.full)])
def test_no_bytes_make_an_end_report_what_was_not_said_or_stop_listening(target, seconds, seed):
    done = fuzz(target, f"-seed={seed}", f"-max_total_time={seconds}")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "stat::number_of_executed_units" in done.stderr
