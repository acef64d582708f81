"""How fast this processor's time stamp counter runs: an emulated guest reads that counter as it is and must be told.

With KVM the guest is told by its clock of its own. Emulated, its kernel has no other clock to measure the counter by.
"""

from __future__ import annotations

import ctypes
import mmap
import time
from pathlib import Path

from . import store
from .settings import STATE

ANSWER = STATE / "tsc.json"

RDTSC = bytes.fromhex("0f31 48c1e220 4809d0 c3")  # rdtsc; shl rdx, 32; or rax, rdx; ret


def khz() -> int:
    """Return the counter's frequency in kHz, measured once a processor: it is part of what a template depends on."""
    processor = model()
    if known := _known(processor):
        return known
    with store.making("tsc"):  # two measurements differ by a little, and with them all that depends on it
        if known := _known(processor):
            return known
        answer = {"processor": processor, "khz": measure()}
        store.write_json(ANSWER, answer)
        return answer["khz"]


def _known(processor: str) -> int | None:
    answer = store.read_json(ANSWER)
    return answer["khz"] if answer and answer["processor"] == processor else None


def measure(seconds: float = 0.2) -> int:
    """Return the frequency in kHz, to some parts in a million, after `seconds`."""
    code = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(RDTSC)
    anchor = ctypes.c_char.from_buffer(code)
    read = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(anchor))

    def both() -> tuple[int, int]:
        """Return the clock in ns and the counter of one moment: of the try that was interrupted least."""
        tries = [(time.monotonic_ns(), read(), time.monotonic_ns()) for _ in range(100)]
        before, ticks, after = min(tries, key=lambda t: t[2] - t[0])
        return (before + after) // 2, ticks

    start, first = both()
    time.sleep(seconds)
    end, last = both()
    return round((last - first) * 1_000_000 / (end - start))


def model() -> str:
    """Return the lines of /proc/cpuinfo that name the processor."""
    lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    return "\n".join(line for line in lines if line.split("\t")[0].strip() in ("model name", "flags", "microcode"))
