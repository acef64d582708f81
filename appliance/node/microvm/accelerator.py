"""Which accelerator guests get: found by booting one, because /dev/kvm being there proves nothing."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

from . import qemu, store
from .image import Image, Report
from .settings import STATE, Settings

ANSWER = STATE / "accelerator.json"
KVM = Path("/dev/kvm")
_KEPT = 2  # answers to other questions


def known(settings: Settings, image: Image | None) -> str | None:
    """Return the accelerator to use, or None when it has to be found out (again)."""
    if settings.accelerator != "auto":
        return settings.accelerator
    for answer in _answers() if image else ():
        # A guest that was too slow for a shorter deadline may be in time for this one.
        too_short = (answer.get("gave_up_after_s") or settings.probe_deadline_s) < settings.probe_deadline_s
        if answer["asked"] == _question(image) and not too_short:
            return answer["accelerator"]
    return None


def remembered() -> str:
    """Return the accelerator of the last probe, whatever has changed since; ``tcg``, which always works, if none."""
    return (store.read_json(ANSWER) or {}).get("accelerator", "tcg")


def probe(settings: Settings, image: Image, report: Report) -> str:
    """Return the accelerator, booting a guest that ends itself where the answer is not known. Remembers the answer."""
    if accelerator := known(settings, image):
        return accelerator
    question = _question(image)
    works, evidence, gave_up_after_s = False, "no /dev/kvm", None
    if question["kvm"]:
        report(f"accelerator: booting a guest with KVM, at most {settings.probe_deadline_s} s")
        try:
            works, evidence = _boots(image, settings.probe_deadline_s)
        except subprocess.TimeoutExpired:
            gave_up_after_s = settings.probe_deadline_s
            evidence = f"a guest on /dev/kvm did not end itself within {gave_up_after_s} s"
    accelerator = "kvm" if works else "tcg"
    answer = {"accelerator": accelerator, "evidence": evidence, "asked": question, "gave_up_after_s": gave_up_after_s}
    earlier = [{key: one[key] for key in answer} for one in _answers() if one["asked"] != question]
    store.write_json(ANSWER, answer | {"earlier": earlier[:_KEPT]})
    report(f"accelerator: {accelerator} ({evidence})")
    return accelerator


def _answers() -> list[dict]:
    """The last answer, and those to other questions before: a release that was left comes back with its question."""
    last = store.read_json(ANSWER)
    return [last, *last.get("earlier", [])] if last else []


def _question(image: Image) -> dict[str, object]:
    """Return what the answer depends on."""
    return {
        "kvm": KVM.exists(),
        "host_kernel": os.uname().release,
        "qemu": qemu.identity(),
        "guest_kernel": image.kernel,
    }


def _boots(image: Image, deadline_s: int) -> tuple[bool, str]:
    """Tell whether a guest boots with KVM and ends itself, and what was seen. Raises subprocess.TimeoutExpired."""
    # fmt: off
    argv = [
        qemu.BINARY, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
        "-accel", "kvm", "-cpu", "host", "-smp", "1", "-m", "128M", "-M", "microvm,acpi=on,rtc=on",
        "-serial", "stdio", "-kernel", str(image.vmlinuz), "-initrd", str(image.initrd),
        "-append", qemu.kernel_words(extra="casemate.probe"),
    ]
    # fmt: on
    start = time.monotonic()
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=deadline_s)
    if b"casemate-probe-ok" not in done.stdout:
        words = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()[-1:]
        return False, f"QEMU with KVM ended with {done.returncode}: {' '.join(words)}"
    return True, f"a guest booted in {time.monotonic() - start:.1f} s"
