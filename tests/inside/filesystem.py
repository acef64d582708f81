"""Runs on an appliance: what programs expect of a file system, asked in pods of each handler. Prints JSON.

`filesystem.py FILES [PART...]`: how many files the big directory gets; semantics, together, limits or, if none is
named, all of them. Needs the test image python.
"""

import json
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

from cri_pods import Pod, execute, wait

from appliance.node.microvm.sandboxes import Sandbox

IMAGE = {"image": "localhost/casemate-test/python:1"}
PROGRAM = Path(__file__).parent / "in_container/semantics.py"
WORK = Path("/var/lib/casemate-test")  # a disk: /tmp may be memory, which has other rules

TOGETHER = {
    "runc": ("runc", {}),
    "microvm": ("microvm", {}),
    "coherent": ("microvm", {"io.casemate.microvm/volumes": "coherent"}),
}


def main():
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir()
    shutil.copy(PROGRAM, WORK / "semantics.py")
    files, *wanted = sys.argv[1:]
    parts = {
        "semantics": lambda: {handler: semantics(handler, files) for handler in ("runc", "microvm")},
        "together": lambda: {name: together(name, *how) for name, how in TOGETHER.items()},
        "limits": limits,
    }
    seen = {name: part() for name, part in parts.items() if name in (wanted or parts)}
    for path in (WORK, "/tmp/casemate-test"):
        shutil.rmtree(path)
    print(json.dumps(seen, indent=1))


def mount(host, container, readonly=False):
    return {"host_path": str(host), "container_path": container, "readonly": readonly}


def python(pod, *arguments, name, volumes=(), start=True):
    mounts = [mount(WORK / "semantics.py", "/semantics.py", True), *volumes]
    return pod.container(
        "/usr/bin/python3", "-B", "/semantics.py", *arguments, name=name, mounts=mounts, image=IMAGE, start=start
    )


def semantics(handler, files):
    """The checks of semantics.py in a root file system and in a volume: {place: {check: "ok" or what was seen}}."""
    pod = Pod(f"fs-{handler}", handler=handler)
    volume = WORK / f"volume-{handler}"
    volume.mkdir()
    seen = {}
    for place, directory in (("root", "/var/tmp"), ("volume", "/data")):
        begin = time.monotonic()
        code = wait(python(pod, directory, files, name=place, volumes=[mount(volume, "/data")]), 500)
        said = pod.log(place)
        seen[place] = json.loads(said["stdout"]) if code == 0 else {"ended": [code, said["stderr"]]}
        seen[f"{place}_s"] = round(time.monotonic() - begin, 1)
    pod.remove()
    return seen


class Peer:
    """A container that does what it is told, over TCP."""

    def __init__(self, pod, port, volumes):
        self.address = (pod.address(), port)
        self.container = python(pod, "serve", str(port), name=f"peer{port}", volumes=volumes)
        end = time.monotonic() + 400
        while True:
            try:
                return self.do("pass")
            except OSError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.2)

    def do(self, code, value=None):
        """Run `code`; the value of the expression `value` after it, or the error's name as "!NAME"."""
        with socket.create_connection(self.address, timeout=60) as link, link.makefile("rw") as stream:
            stream.write(json.dumps([code, *([value] if value else [])]) + "\n")
            stream.flush()
            answer = json.loads(stream.readline())
        return f"!{answer['error']}" if "error" in answer else answer["value"]


def together(name, handler, annotations):
    """Two pods, and two containers of the first, on one volume: what each sees of the others' doing."""
    volume = WORK / f"shared-{name}"
    volume.mkdir()
    config = {"annotations": annotations}
    first, second = Pod("first", handler=handler, config=config), Pod("second", handler=handler, config=config)
    volumes = [mount(volume, "/data")]
    one, near, far = Peer(first, 7001, volumes), Peer(first, 7002, volumes), Peer(second, 7001, volumes)
    for peer in (one, near, far):
        peer.do("os.chdir('/data')")
    seen = {"sibling": pair(one, near, "sibling"), "other_pod": pair(one, far, "other")}
    (volume / "from-host").write_text("one")
    seen["host_write"] = one.do("", "get('from-host').decode()")
    (volume / "from-host").write_text("longer than one")
    seen["host_rewrite"] = one.do("", "get('from-host').decode()")
    (volume / "from-host").unlink()
    seen["host_unlink"] = one.do("", "os.path.exists('from-host')")
    first.remove()
    second.remove()
    return seen


def pair(one, two, name):
    """What `two` sees right after `one` did it."""
    seen = {}
    one.do(f"os.mkdir('{name}'); os.chdir('/data/{name}')")
    two.do(f"os.chdir('/data/{name}')")
    one.do("put('a', b'1')")
    seen["new_file"] = two.do("", "get('a').decode()")
    one.do("put('a', b'22')")
    seen["rewritten"] = two.do("", "[get('a').decode(), os.stat('a').st_size]")
    two.do("kept = open('a', 'rb', buffering=0)", "kept.read(1).decode()")
    one.do("f = open('a', 'ab', buffering=0); f.write(b'333'); f.close()")
    seen["appended_while_open"] = two.do("", "[kept.read().decode(), os.fstat(kept.fileno()).st_size]")
    one.do("f = open('a', 'r+b', buffering=0); f.write(b'X'); os.fsync(f.fileno())")
    seen["synced_while_open"] = two.do("kept.seek(0)", "kept.read().decode()")
    one.do("f.close(); os.truncate('a', 1)")
    seen["truncated"] = two.do("", "[os.stat('a').st_size, get('a').decode()]")
    one.do("os.rename('a', 'b')")
    seen["renamed"] = two.do("", "[sorted(os.listdir('.')), os.path.exists('a'), get('b').decode()]")
    seen["absent"] = two.do("", "os.path.exists('later')")
    one.do("put('later', b'new')")
    seen["then_there"] = two.do("", "get('later').decode()")
    one.do("put('new-b', b'replaced'); os.rename('new-b', 'b')")
    seen["replaced"] = two.do("", "get('b').decode()")
    one.do("os.unlink('b'); os.unlink('later'); os.mkdir('d')")
    seen["removed"] = two.do("", "[os.listdir('.'), os.path.exists('b')]")
    one.do("os.rmdir('d'); put('d', b'now a file')")
    seen["directory_became_file"] = two.do("", "get('d').decode()")
    one.do("put('mode'); os.chmod('mode', 0o640); os.chown('mode', 5, 6)")
    seen["owner"] = two.do("s = os.stat('mode')", "[s.st_mode & 0o777, s.st_uid, s.st_gid]")
    one.do("os.chmod('mode', 0o600)")
    seen["chmod"] = two.do("", "os.stat('mode').st_mode & 0o777")
    seen["exclusive"] = [
        one.do("os.close(os.open('claim', os.O_CREAT | os.O_EXCL))"),
        two.do("os.close(os.open('claim', os.O_CREAT | os.O_EXCL))"),
    ]
    one.do("held = open('lock', 'w'); fcntl.flock(held, fcntl.LOCK_EX)")
    seen["flock"] = two.do("mine = open('lock', 'w'); fcntl.flock(mine, fcntl.LOCK_EX | fcntl.LOCK_NB)")
    one.do("held2 = open('lock2', 'w'); fcntl.lockf(held2, fcntl.LOCK_EX)")
    seen["posix_lock"] = two.do("mine2 = open('lock2', 'w'); fcntl.lockf(mine2, fcntl.LOCK_EX | fcntl.LOCK_NB)")
    refused = one.do("put('map', bytes(4096)); m = open('map', 'r+b'); mm = mmap.mmap(m.fileno(), 0)")
    two.do("m = open('map', 'r+b'); mm = mmap.mmap(m.fileno(), 0)", "mm[0]")
    one.do("mm[0:3] = b'map'; mm.flush()")
    seen["mapping"] = refused or two.do("", "mm[0:3].decode()")
    seen["mapping_read"] = two.do("", "get('map')[:3].decode()")
    append = "fd = os.open('log', os.O_WRONLY | os.O_APPEND | os.O_CREAT); os.write(fd, b'{}'); os.close(fd)"
    for peer, letter in ((one, "a"), (two, "b"), (one, "c"), (two, "d")):
        peer.do(append.format(letter))
    seen["appends"] = one.do("", "get('log').decode()")
    two.do("w = call('inotify_init1', os.O_NONBLOCK); call('inotify_add_watch', w, b'.', 0x100)")
    one.do("put('noticed')")
    seen["inotify"] = two.do("", "bool(select.select([w], [], [], 2)[0])")
    two.do("kept.close()")
    one.do("s = socket.socket(socket.AF_UNIX); s.bind('sock'); s.listen()")
    seen["unix_socket"] = two.do("c = socket.socket(socket.AF_UNIX); c.connect('sock')", "True")
    for peer in (one, two):
        peer.do("os.chdir('/data')")
    return seen


def used_mib(path):
    return path.stat().st_blocks * 512 >> 20


def limits():
    """A full disk, read-only volumes, a file as a volume, a source that is not there or vanishes."""
    seen = {}
    small = WORK / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "small", str(small)], check=True)
    vanishing = WORK / "vanishing"
    vanishing.mkdir()
    (vanishing / "file").write_text("there")
    single = WORK / "single"
    single.write_text("one")
    pod = Pod("limits")
    try:
        peer = Peer(pod, 7001, [
            mount(small, "/small"), mount(vanishing, "/vanishing"), mount(WORK, "/fixed", True), mount(single, "/file"),
        ])  # fmt: skip
        fill = """f = open('/small/big', 'wb', buffering=0)
try:
    while True:
        f.write(bytes(1 << 16))
        os.fsync(f.fileno())
finally:
    f.close()"""
        seen["full"] = peer.do(fill)
        seen["free_after"] = peer.do("s = os.statvfs('/small')", "s.f_bavail * s.f_frsize < 1 << 20")
        seen["recovers"] = peer.do("os.unlink('/small/big'); put('/small/x', b'1')", "get('/small/x').decode()")
        # more than the pod's disk has, without the wait for so many bytes
        seen["root_full"] = peer.do(
            "fd = os.open('/var/tmp/big', os.O_CREAT | os.O_WRONLY); os.posix_fallocate(fd, 0, 9 << 30)"
        )
        seen["root_recovers"] = peer.do(
            "os.close(fd); os.unlink('/var/tmp/big'); put('/var/tmp/x', b'1')", "get('/var/tmp/x').decode()"
        )
        disk = Sandbox(pod.id).disk
        seen["disk_mib"] = [used_mib(disk)]
        peer.do("put('/var/tmp/data', os.urandom(64 << 20)); os.sync()")
        seen["disk_mib"].append(used_mib(disk))
        peer.do("os.unlink('/var/tmp/data'); os.sync()")
        seen["disk_mib"].append(used_mib(disk))
        changes = (
            "put('/fixed/x')", "os.chmod('/fixed/single', 0o777)", "os.unlink('/fixed/single')",
            "os.setxattr('/fixed/single', 'user.x', b'')", "os.rename('/fixed/single', '/fixed/y')",
        )  # fmt: skip
        seen["read_only"] = [peer.do(change) for change in changes]
        seen["file"] = peer.do("put('/file', b'two')", "[get('/file').decode(), os.path.isfile('/file')]")
        seen["file_on_host"] = single.read_text()
        shutil.rmtree(vanishing)
        seen["vanished"] = [
            peer.do("", "get('/vanishing/file').decode()"), peer.do("put('/vanishing/new')"), peer.do("", "1 + 1"),
        ]  # fmt: skip
        seen["still_well"] = execute(peer.container, "/bin/sh", "-c", "echo well")
    finally:
        pod.remove()
        subprocess.run(["umount", str(small)], check=True)
    return seen


if __name__ == "__main__":
    main()
