"""Runs on an appliance: attempts to get out of a pod from each place that may be owned; prints what each one met."""

import json
import os
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path

import probes
from attacker import in_guest, in_jail, on_host
from cri_pods import Pod, cri, execute, sh, status, wait

from appliance.node.microvm import image, protocol
from appliance.node.microvm.jail import JAIL_CAPABILITIES
from appliance.node.microvm.sandboxes import Sandbox
from appliance.node.microvm.settings import RuntimeFailure

FILES = Path("/var/tmp/casemate-escape")
ABSTRACT = "casemate-escape"


def main():
    shutil.rmtree(FILES, ignore_errors=True)
    shutil.rmtree("/tmp/casemate-test", ignore_errors=True)
    for name in ("rw", "ro", "victim", "host"):
        (FILES / name).mkdir(parents=True)
    (FILES / "ro/file").write_text("read-only\n")
    (FILES / "host/hostname").write_text("of the host\n")
    rootfs = image.current().rootfs
    before = rootfs.stat().st_mtime_ns

    victim = Pod("victim")
    neighbour = victim.container(
        *sh("sleep 10000"), mounts=[{"host_path": str(FILES / "victim"), "container_path": "/data"}]
    )
    pod = Pod("attacker")
    volumes = [
        {"host_path": str(FILES / "rw"), "container_path": "/rw"},
        {"host_path": str(FILES / "ro"), "container_path": "/ro", "readonly": True},
    ]
    container = pod.container(*sh("sleep 10000"), mounts=volumes)

    seen = {"attacker": container, "neighbour": neighbour, "guest": from_guest(pod)}
    seen["volumes"], seen["neighbour's volumes"] = volumes_of(pod, container), volumes_of(victim, neighbour)
    seen["file on the read-only volume"] = (FILES / "ro/file").read_text(), (FILES / "ro/file").stat().st_mode & 0o777
    seen["files of the host"] = sorted(os.listdir(FILES / "host"))
    seen["root file system changed"] = rootfs.stat().st_mtime_ns != before
    seen["set-user-ID"] = set_user_id(pod)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("\0" + ABSTRACT)
        listener.listen()
        values = {"host_pid": os.getpid(), "abstract": ABSTRACT}
        seen["jail"] = in_jail(pod.id, probes.JAIL, ctl="/run/pod/ctl", **values)
        seen["stand-in"] = in_jail(container, probes.JAIL, ctl="/run/pod/ctl", **values)
        seen["host"] = on_host(probes.JAIL, ctl=str(Sandbox(pod.id).ctl), **values)
    seen["user"], seen["neighbour's user"] = Sandbox(pod.id).uid, Sandbox(victim.id).uid
    seen["accelerated"] = pod.info()["accelerator"] == "kvm"
    seen["jail's files"] = in_jail(pod.id, FILES_OF_JAIL)
    seen["qemu"] = qemu(pod.id)

    seen["served without"] = {}
    for capability in (None, *JAIL_CAPABILITIES):
        theirs = FILES / "rw/theirs"
        theirs.unlink(missing_ok=True)
        theirs.touch(mode=0o600)
        os.chown(theirs, 1234, 5678)
        place = f"/run/pod/volumes/{volume(pod, FILES / 'rw')}"
        seen["served without"][str(capability)] = in_jail(pod.id, probes.SERVE, without=capability, directory=place)

    liar = Pod("liar")
    seen["channel"] = from_channel(liar)
    liar.remove()

    seen["filled"] = in_jail(pod.id, probes.FILL, ctl="/run/pod/ctl")
    seen["memory"] = {mib: in_jail(pod.id, probes.MEMORY, mib=mib) for mib in (16, 4000)}
    seen["neighbour lives"] = execute(neighbour, *sh("echo alive"))[1]
    pod.remove()
    victim.remove()
    shutil.rmtree(FILES)
    print(json.dumps(seen, indent=1))


FILES_OF_JAIL = """
import os
seen = {p: sorted(os.listdir("/run/pod/" + p)) for p in ("share", "volumes")}
print(json.dumps(seen | {"root": sorted(os.listdir("/"))}))
"""


def from_guest(pod):
    """Attempts of the guest's root; meanwhile the host puts a link where the guest holds a directory open."""

    def swap():
        deadline = time.monotonic() + 120
        while not (FILES / "rw/now").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        (FILES / "rw/swap").rename(FILES / "rw/moved")
        (FILES / "rw/swap").symlink_to(FILES / "host")
        (FILES / "rw/swapped").touch()

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        return in_guest(
            pod.id, probes.GUEST, share="/run/share", volumes="/run/volumes",
            writable=f"/run/volumes/{volume(pod, FILES / 'rw')}", read_only=f"/run/volumes/{volume(pod, FILES / 'ro')}",
        )  # fmt: skip
    finally:
        thread.join()


def volume(pod, source):
    """Return the name under which the guest sees a volume."""
    entries = (entry for entry in Sandbox(pod.id).volumes.iterdir() if entry.is_dir())
    return next(entry.name for entry in entries if os.path.samefile(entry, source))


def volumes_of(pod, container):
    return sorted((Sandbox(pod.id).users / container).read_text().split())


def set_user_id(pod):
    """Run what the guest made set-user-ID, at its place and where the jail sees it."""
    shown = Sandbox(pod.id).volumes / volume(pod, FILES / "rw") / "suid"
    found = {"mode": oct((FILES / "rw/suid").stat().st_mode & 0o7777)}
    for name, path in (("at its place", FILES / "rw/suid"), ("in the jail's view", shown)):
        try:
            found[name] = subprocess.run(["busybox", "true"], executable=path, capture_output=True).returncode
        except PermissionError:
            found[name] = "EACCES"
    return found


def qemu(sandbox_id):
    """Return what the kernel says of the jail's QEMU and its supervisor."""
    uid, found = Sandbox(sandbox_id).uid, {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            lines = dict(line.split(":\t", 1) for line in (entry / "status").read_text().splitlines() if ":\t" in line)
            command = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if lines["Uid"].split("\t")[0] == str(uid):
            name = "qemu" if b"qemu" in command else "supervisor" if b"_supervise" in command else "stand-in"
            found[name] = {k: lines[k].strip() for k in ("CapEff", "CapPrm", "CapAmb", "Seccomp", "NoNewPrivs")}
    return found


def from_channel(pod):
    """Frames of the guest's own choice: an honest end, ends that are none, and noise."""
    found = {}
    for name, payload in (
        ("a code", b'{"code": 7}'),
        ("a word", b'{"code": "x"}'),
        ("too big a code", b'{"code": 99999}'),
    ):
        program = pod.container(*sh("sleep 10000"))
        send(pod, b"".join(protocol.frame(protocol.EXIT, stream, payload) for stream in range(1, 200)))
        found[name] = wait(program, 60)
    found["another version"] = refusal(lambda: Sandbox(pod.id).call("ping", version=protocol.VERSION + 1))
    program = pod.container(*sh("sleep 10000"))
    send(pod, b"\xff" * 64)
    found["noise"] = wait(program, 60)
    deadline = time.monotonic() + 60
    while (state := cri.call("PodSandboxStatus", pod_sandbox_id=pod.id).status.state) == 0:
        if time.monotonic() > deadline:
            break
        time.sleep(0.2)
    found["pod's state"], found["program's state"] = state, status(program).state
    return found


def refusal(action):
    try:
        action()
    except RuntimeFailure as error:
        return str(error)


def send(pod, data):
    try:
        in_guest(pod.id, probes.PORT, frames=data.hex())
    except Exception as error:  # the attacker's own stream gets them as well
        return str(error)


if __name__ == "__main__":
    main()
