"""The time stamp counter's frequency: measured once, and told to emulated guests."""

import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from appliance.node.microvm import qemu, store, tsc


@pytest.fixture(autouse=True)
def answer(tmp_path, monkeypatch):
    monkeypatch.setattr(tsc, "ANSWER", tmp_path / "tsc.json")
    monkeypatch.setattr(store, "STATE", tmp_path)
    return tsc.ANSWER


def test_two_measurements_agree():
    assert tsc.measure(0.05) == pytest.approx(tsc.measure(0.05), rel=1e-3)


def test_it_is_measured_once_a_processor(answer, monkeypatch):
    first = tsc.khz()
    monkeypatch.setattr(tsc, "measure", lambda: pytest.fail("measured again"))
    assert tsc.khz() == first
    answer.write_text(json.dumps({"processor": "another", "khz": 1}))
    monkeypatch.setattr(tsc, "measure", lambda: 7)
    assert tsc.khz() == 7


def test_only_an_emulated_guest_is_told():
    assert "tsc_early_khz=7 tsc=reliable" in qemu.kernel_words(7)
    assert "tsc" not in qemu.kernel_words()


def test_those_who_ask_at_once_get_one_answer(monkeypatch):
    values = iter(range(1, 100))
    monkeypatch.setattr(tsc, "measure", lambda: time.sleep(0.05) or next(values))
    with ThreadPoolExecutor() as pool:
        assert set(pool.map(lambda _: tsc.khz(), range(8))) == {1}
