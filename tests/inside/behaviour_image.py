"""Runs on an appliance: the image of the behaviour suite, with each signal that an image may ask to be stopped by."""

import subprocess
import tempfile
from pathlib import Path

from appliance.node.images import oci, recipes

NAME = "localhost/casemate-test/behaviour"
STOP_SIGNALS = {"SIGTERM": 15, "SIGQUIT": 3, "SIGUSR1": 10, "SIGWINCH": 28, "SIGRTMIN+3": 37}


def image(stop_signal="SIGTERM"):
    return {"image": f"{NAME}:{stop_signal.lower().replace('+', '-')}"}


def import_images():
    busybox = Path("/bin/busybox").read_bytes()
    applets = subprocess.run(["/bin/busybox", "--list"], capture_output=True, text=True, check=True).stdout.split()
    entries = [
        oci.Entry("bin"),
        oci.Entry("bin/busybox", busybox),
        *(oci.Entry(f"bin/{name}", target="busybox") for name in applets if name != "busybox"),
        # Static, and no busybox, which gives a set-user-ID up by itself.
        oci.Entry("bin/set-user-id", Path("/usr/bin/catatonit").read_bytes(), mode=0o4755),
        oci.Entry("etc"),
        oci.Entry("etc/passwd", b"root:x:0:0::/:/bin/sh\nworker:x:4711:4712::/:/bin/sh\n", mode=0o644),
        oci.Entry("etc/group", b"root:x:0:\nworker:x:4712:\nhelpers:x:4713:worker\n", mode=0o644),
        oci.Entry("etc/not-executable", b"text\n", mode=0o644),
        oci.Entry("tmp", mode=0o1777),
        *(oci.Entry(name) for name in ("proc", "sys", "dev")),
    ]
    for signal in STOP_SIGNALS:
        made = oci.Image(image(signal)["image"], entries, ["/bin/sh"], user="0:0", stop_signal=signal)
        with tempfile.NamedTemporaryFile() as file:
            file.write(oci.build(made, recipes.architecture()))
            file.flush()
            subprocess.run(["ctr", "-n", "k8s.io", "images", "import", file.name], check=True, capture_output=True)
