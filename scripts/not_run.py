"""List what a run of ./check did not run, with the reason: `not_run.py RESULTS_DIR FULL(yes|no)`."""

import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

# what no run on a machine like CI's can show; keep in step with the README's support matrix
NEVER = (
    "microVMs with KVM on this machine's own processor: decided by booting a probe guest; see doctor's `microvm`",
    "Ubuntu 24.04: preflight knows it, no lab host of it has been made",
    "KubeEdge: EdgeCore and CloudCore are stand-ins; CASEMATE_EDGECORE=/path runs the cases up to the certificate with"
    " the binary; CloudCore needs a Kubernetes API server, which the suite does not make (CASEMATE_CLOUDCORE)",
    "Vagrant: the Vagrantfile is validated where vagrant is installed, no box is booted",
)


def main(results: Path, full: bool) -> None:
    for file in sorted(results.glob("*.xml")):
        for case in ET.parse(file).getroot().iter("testcase"):  # noqa: S314  our own pytest wrote it
            skipped = case.find("skipped")
            if skipped is not None:
                print(f"  {file.stem}: {case.get('name')}: {skipped.get('message')}")
    if not full:
        listing = subprocess.run(
            [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", "full", "tests"],
            capture_output=True, text=True, check=False,
        ).stdout  # fmt: skip
        for line in listing.splitlines():
            if "::" in line:
                print(f"  {line}: a long case; ./check --full runs it")
    for line in NEVER:
        print(f"  {line}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] == "yes")
