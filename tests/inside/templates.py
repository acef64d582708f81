"""Runs on an appliance: pods that boot cold by choice, and what becomes of templates that are damaged. Prints JSON.

`templates.py [all]`: with `all`, damage that takes more cold boots.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from cri_pods import RUNTIME, Pod, refusal

from appliance.node.microvm import accelerator, image, qemu, settings, template

BOOT = "io.casemate.microvm/boot"
PREPARE = [RUNTIME, "prepare"]
PATIENCE_S = 1500  # the maker gives way to everybody, and tries again after a minute


def main():
    seen = {"ready": ready(PATIENCE_S)}
    seen["cold by choice"] = start({BOOT: "cold"})
    seen["other value"] = refusal(lambda: start({BOOT: "warm"}))
    seen["other name"] = refusal(lambda: start({"io.casemate.microvm/size": "big"}))

    cut_devices()
    seen["devices cut"] = start()
    seen["dropped"] = status()["why_not"]
    seen["made again"] = ready(PATIENCE_S)
    seen["after"] = start()
    if sys.argv[1:] == ["all"]:
        more(seen)
    print(json.dumps(seen, indent=1))


def more(seen):
    wipe_memory()
    seen["memory wiped"] = start()
    seen["made again after wiping"] = ready(PATIENCE_S)

    with (directory() / "memory").open("r+b") as file:
        file.truncate(4096)
    seen["memory cut"] = start()
    seen["made again after cutting"] = ready(PATIENCE_S)

    flip_a_bit()
    seen["bit flipped, by a look"] = status()["why_not"]
    done = subprocess.run([*PREPARE, "--verify"], capture_output=True, text=True)
    seen["bit flipped, verified"] = [done.returncode, done.stderr]
    seen["made again after the bit"] = status()["ready"]

    template.drop(directory())
    killed = subprocess.Popen(PREPARE, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    time.sleep(3)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    time.sleep(1)
    seen["maker killed"] = [status()["why_not"], guests_of(template.TEMPLATES)]
    subprocess.run(PREPARE, capture_output=True, check=True)
    seen["made again after the kill"] = status()["ready"]
    seen["left"] = sorted(entry.name for entry in template.TEMPLATES.iterdir() if entry.name.startswith("."))


def start(annotations=None):
    """Start a pod and remove it; return what its sandbox says of its start."""
    pod = Pod("template", config={"annotations": annotations or {}})
    try:
        info = pod.info()
        return {key: info[key] for key in ("started_from", "notes", "template_broken", "started_in_s")}
    finally:
        pod.remove()


def status():
    """Return what `casemate-microvm status` says of the smallest size's template."""
    done = subprocess.run([RUNTIME, "status"], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)["templates"][0]


def ready(seconds):
    """Wait until the template is there again; nobody but the unit makes it."""
    end = time.monotonic() + seconds
    while not status()["ready"] and time.monotonic() < end:
        time.sleep(1)
    return status()["ready"]


def directory():
    configured, guest_image = settings.load(), image.current()
    chosen = accelerator.known(configured, guest_image)
    return template.TEMPLATES / template.key(guest_image, configured.templates()[0], chosen, qemu.identity())


def trust(name):
    """Make the record say that a damaged file is as it was written, so that only QEMU or the guest can notice."""
    record = json.loads((directory() / "template.json").read_text())
    file = directory() / name
    record["files"][name] = {"identity": template._identity(file), "sha256": template._sha256(file)}
    (directory() / "template.json").write_text(json.dumps(record))


def cut_devices():
    file = directory() / "devices"
    os.truncate(file, file.stat().st_size // 2)
    trust("devices")


def wipe_memory():
    """Overwrite the guest's kernel."""
    with (directory() / "memory").open("r+b") as file:
        file.seek(16 << 20)
        file.write(b"\xff" * (64 << 20))
    trust("memory")


def flip_a_bit():
    """As a disk does, which sets no time stamp: the file's identity in the record follows, its hash does not."""
    file = directory() / "memory"
    record = json.loads((directory() / "template.json").read_text())
    with file.open("r+b") as stream:
        stream.seek(20 << 20)
        byte = stream.read(1)[0]
        stream.seek(20 << 20)
        stream.write(bytes([byte ^ 4]))
    record["files"]["memory"]["identity"] = template._identity(file)
    (directory() / "template.json").write_text(json.dumps(record))


def guests_of(where):
    """How many QEMUs use a file below a directory."""
    found = 0
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            found += f"mem-path={where}" in (entry / "cmdline").read_text()
        except OSError:
            continue
    return found


if __name__ == "__main__":
    main()
