"""Whether KVM works on this machine, found out by booting a guest.

/dev/kvm being there proves nothing: there are machines where it opens and every guest then hangs for ever.
"""

import json
import os
import subprocess
from pathlib import Path

from appliance.lab.state import cache_dir

PROBE_SECONDS = 15


def kvm_works(kernel: Path) -> bool:
    """Boot `kernel` under KVM, once per kernel of this machine; the answer is remembered in the lab's cache.

    The guest has no root file system: it panics, reboots at once, and QEMU ends instead of rebooting. A guest that
    does not get that far before the deadline is no use.
    """
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    machine = " ".join(os.uname()[1:4])
    answer = cache_dir() / "kvm.json"
    try:
        remembered = json.loads(answer.read_text())
        if remembered["machine"] == machine:
            return remembered["works"]
    except (OSError, ValueError, KeyError):
        pass  # never asked, or the answer is no good: ask again
    works = _probe(kernel)
    answer.parent.mkdir(parents=True, exist_ok=True)
    answer.write_text(json.dumps({"machine": machine, "works": works}) + "\n")
    return works


def _probe(kernel: Path) -> bool:
    argv = [
        "qemu-system-x86_64", "-accel", "kvm", "-cpu", "host", "-M", "q35", "-m", "256", "-nodefaults",
        "-display", "none", "-no-reboot", "-kernel", str(kernel), "-append", "panic=-1 quiet",
    ]  # fmt: skip
    try:
        return subprocess.run(argv, capture_output=True, timeout=PROBE_SECONDS, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False
