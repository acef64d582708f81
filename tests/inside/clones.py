"""Runs on an appliance: many guests restored from one template, and what they draw. `clones.py COUNT`. Prints JSON.

No engine, no pod: boot.py restores each guest, as in a jail, and gives it its identity. The guest's agent learns one
call more, from an archive behind its own in the initramfs: `randomness` reads all that no two guests may share.
"""

import json
import os
import shutil
import sys
import tempfile
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from appliance.node.microvm import accelerator, boot, cpio, image, qemu, settings, store, template

CALL = """
def call_randomness(self, stream):
    found = {name: Path("/proc/sys/kernel/random", name).read_text().strip() for name in ("boot_id", "uuid")}
    identity = Path("/etc/machine-id")
    found["machine_id"] = identity.read_text().strip() if identity.exists() else None
    found["hostname"] = socket.gethostname()
    found["getrandom"], found["urandom"] = os.getrandom(16).hex(), Path("/dev/urandom").open("rb").read(16).hex()
    child = subprocess.Popen(["/bin/busybox", "sleep", "60"])
    self.children[child.pid] = lambda _: None
    child.returncode = 0
    while b"sleep" not in Path(f"/proc/{child.pid}/cmdline").read_bytes():  # until then, it is the agent's own memory
        pass
    given = {}
    while 25 not in given:  # AT_RANDOM
        given = dict(struct.iter_unpack("QQ", Path(f"/proc/{child.pid}/auxv").read_bytes()))
    with open(f"/proc/{child.pid}/mem", "rb") as memory:
        memory.seek(given[25])
        found["at_random"] = memory.read(16).hex()
    found["layout"] = [line.split()[0] for line in Path(f"/proc/{child.pid}/maps").read_text().splitlines()]
    os.kill(child.pid, signal.SIGKILL)
    subprocess.run(["/bin/busybox", "ifconfig", "lo", "up"], check=True)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as wire, socket.socket() as link:
        wire.bind(("lo", 0))
        link.connect_ex(("127.0.0.1", 9))
        frame = b""
        # IPv4 (20 bytes of header), TCP, to the port 9, SYN alone: the card's own frames come by here, too
        while frame[12:15] != b"\\x08\\0\\x45" or frame[23] != 6 or frame[36:38] != b"\\0\\x09" or frame[47] != 2:
            frame = wire.recv(2048)
    found["tcp"] = struct.unpack("!HxxI", frame[34:42])  # source port, initial sequence number
    self._reply(stream, found=found)


Agent.call_randomness = call_randomness
"""
CARD = {"mac": "02:00:00:00:00:01", "mtu": 1500, "addresses": ["10.99.0.2/24"], "routes": []}


def main():
    count = int(sys.argv[1])
    work = Path(tempfile.mkdtemp(prefix="clones-", dir=settings.STATE))
    try:
        print(json.dumps(clones(count, work)))
    finally:
        shutil.rmtree(work)


def clones(count, work):
    configured = settings.load()
    chosen = accelerator.known(configured, image.current())
    size = min(configured.sizes, key=lambda s: s.memory_mib)
    guest_image = image_with_the_call(work)
    template.TEMPLATES = work / "templates"
    template.make(configured, guest_image, size, chosen, qemu.identity(), lambda text: None)
    saved, _ = template.find(guest_image, size, chosen, qemu.identity())
    (work / "empty").mkdir()
    machine = template.machine(guest_image, size, chosen)._replace(
        memory_file=str(saved.memory), memory_read_only=saved.read_only, incoming=True,
        shares=tuple((tag, str(work / "empty")) for tag in template.SHARES),
    )  # fmt: skip

    def clone(number, configure=True):
        disk = work / f"disk-{threading.get_ident()}"
        store.copy_sparse(guest_image.disk, disk)
        guest = boot.launch(machine._replace(disk=str(disk)), prefix=template.OWN_NETWORK)
        deadline = time.monotonic() + 120
        try:
            boot.restore(guest, str(saved.devices))
            if configure:
                guest.call(
                    "configure", deadline, seed=os.urandom(64).hex(), time_ns=time.time_ns(), hostname=f"c{number}",
                    machine_id=uuid.uuid4().hex, interface=CARD, sysctl={}, shares={},
                )  # fmt: skip
            return guest.call("randomness", deadline)["found"]
        finally:
            guest.end()

    begin = time.monotonic()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        drawn = list(pool.map(clone, range(count)))
    seconds = round(time.monotonic() - begin, 1)
    return {"drawn": drawn, "seconds": seconds, "as saved": [clone(0, configure=False) for _ in range(2)]}


def image_with_the_call(work):
    """The current image with an agent that has the call."""
    current = image.current()
    own = image.Image("clones", work / "image", current.kernel)
    own.directory.mkdir()
    for name in ("vmlinuz", "rootfs", "disk"):
        os.link(current.directory / name, own.directory / name)
    source = (image.GUEST / "agent.py").read_text()
    start = 'if __name__ == "__main__":'
    assert source.count(start) == 1
    archive = cpio.Writer()
    archive.directory("casemate")
    archive.file("casemate/agent.py", source.replace(start, CALL + "\n\n" + start).encode(), 0o755)
    own.initrd.write_bytes(current.initrd.read_bytes() + archive.end())
    return own


if __name__ == "__main__":
    main()
