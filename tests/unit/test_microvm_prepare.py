"""What is made before the first pod: the accelerator's answer, when it holds, and the templates for it."""

import subprocess
import threading
from types import SimpleNamespace

import pytest

from appliance.node.microvm import accelerator, image, prepare, template
from appliance.node.microvm.settings import RuntimeFailure, Settings


@pytest.fixture
def guest_image(tmp_path):
    return image.Image("key", tmp_path, "6.1")


@pytest.fixture
def probes(tmp_path, monkeypatch):
    """A host with /dev/kvm; `answer` is what a guest on it does, `asked` the deadlines of the guests booted so far."""

    seen = SimpleNamespace(asked=[], answer=(True, "a guest booted in 1.0 s"))

    def boots(_, deadline_s):
        seen.asked.append(deadline_s)
        if isinstance(seen.answer, Exception):
            raise seen.answer
        return seen.answer

    (tmp_path / "kvm").touch()
    monkeypatch.setattr(accelerator, "KVM", tmp_path / "kvm")
    monkeypatch.setattr(accelerator, "ANSWER", tmp_path / "accelerator.json")
    monkeypatch.setattr(accelerator.qemu, "identity", lambda: "q1")
    monkeypatch.setattr(accelerator, "_boots", boots)
    return seen


def ask(guest_image, deadline_s):
    return accelerator.probe(Settings(probe_deadline_s=deadline_s), guest_image, lambda text: None)


def test_an_answer_is_remembered(probes, guest_image):
    assert [ask(guest_image, 10), ask(guest_image, 10), ask(guest_image, 99)] == ["kvm"] * 3
    assert probes.asked == [10]


def test_a_guest_that_was_too_slow_is_given_a_longer_deadline_when_there_is_one(probes, guest_image):
    probes.answer = subprocess.TimeoutExpired("qemu", 10)
    assert [ask(guest_image, 10), ask(guest_image, 10), ask(guest_image, 5)] == ["tcg"] * 3
    assert probes.asked == [10]
    probes.answer = (True, "a guest booted in 20 s")
    assert ask(guest_image, 30) == "kvm"
    assert probes.asked == [10, 30]


def test_the_answer_of_a_release_that_comes_back_is_still_known(probes, guest_image, monkeypatch):
    ask(guest_image, 10)
    for qemu in ("q2", "q1", "q2"):
        monkeypatch.setattr(accelerator.qemu, "identity", lambda qemu=qemu: qemu)
        ask(guest_image, 10)
    assert probes.asked == [10, 10]


def test_a_guest_that_failed_is_not_asked_again_for_a_longer_deadline(probes, guest_image):
    probes.answer = (False, "QEMU with KVM ended with 1")
    assert [ask(guest_image, 10), ask(guest_image, 99)] == ["tcg"] * 2
    assert probes.asked == [10]


@pytest.fixture
def slow_probe(monkeypatch, guest_image):
    """A probe that answers only once tcg's templates were tried, which fail; the templates made, by accelerator."""
    tried, made = threading.Event(), []
    answer = {}

    def probe(*_):
        assert tried.wait(10)
        return answer["accelerator"]

    def make(settings, image, size, chosen, identity, report):
        made.append(chosen)
        if chosen == "tcg":
            tried.set()
            raise RuntimeFailure("the guest did not boot")

    monkeypatch.setattr(prepare, "KVM_ANSWERS_WITHIN_S", 0.01)
    monkeypatch.setattr(prepare.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(prepare.image, "current", lambda: guest_image)
    monkeypatch.setattr(prepare.qemu, "identity", lambda: "q1")
    monkeypatch.setattr(prepare.accelerator, "probe", probe)
    monkeypatch.setattr(prepare.template, "make", make)
    monkeypatch.setattr(prepare.template, "prune", lambda keep: None)
    monkeypatch.setattr(template, "key", lambda *parts: "name")

    def run(chosen):
        answer["accelerator"] = chosen
        prepare._make(Settings(), ["probe", "template"], refresh=False, report=lambda text: None)
        return made

    return run


def test_a_template_begun_in_vain_does_not_fail_a_host_whose_probe_says_kvm(slow_probe):
    assert "kvm" in slow_probe("kvm")


def test_a_template_begun_ahead_fails_a_host_whose_probe_says_tcg(slow_probe):
    with pytest.raises(RuntimeFailure, match="did not boot"):
        slow_probe("tcg")


def test_one_processor_waits_for_the_probe(slow_probe, monkeypatch):
    monkeypatch.setattr(prepare.os, "cpu_count", lambda: 1)
    monkeypatch.setattr(prepare.accelerator, "probe", lambda *_: "kvm")
    assert set(slow_probe("kvm")) == {"kvm"}
