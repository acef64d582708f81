"""Runs on an appliance: measures ways to give a guest its files, all in one guest, side by side. Prints JSON.

One guest of the host's image is booted by hand (no agent) with the same host tree exported in each way; then each is
used alike by one Python program. Each step's figure is [seconds, seconds of processor time of QEMU and virtiofsd]:
the second hardly depends on what else the machine does. `sharing.py [WAY...]`; on Debian 13, install virtiofsd first.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from appliance.node.microvm import accelerator, cpio, image, settings, template

VIRTIOFSD = next((p for p in ("/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd") if os.path.exists(p)), None)
PYTHON = next(p for p in sorted(Path("/usr/lib").glob("python3.*")) if (p / "os.py").exists())
FILES, BIG_MIB, SYNCS = 600, 32, 60

INIT = """#!/bin/busybox sh
b=/bin/busybox
export PATH=/bin
for t in devtmpfs:dev proc:proc sysfs:sys; do $b mount -t ${t%%:*} x /${t##*:}; done
while read -r m; do $b insmod /modules/$m; done < /modules/order
$b mount -t tmpfs rw /rw; $b mkdir /rw/upper /rw/work
$b mount -t erofs -o ro /dev/vda /lower
$b mount -t overlay -o lowerdir=/lower,upperdir=/rw/upper,workdir=/rw/work root /root
for m in dev proc sys; do $b mount -o move /$m /root/$m; done
$b cp /measure.py /root/
$b mount -t tmpfs tmp /root/tmp
exec $b switch_root /root /usr/bin/python3 -ISB /measure.py
"""

# In the guest. Each way is (name, where to read, where to write, mount commands).
MEASURE = """
import json, os, subprocess, sys, time
WAYS, FILES, BIG_MIB, SYNCS, PYTHON = json.loads(%(arguments)r)

def run(*argv):
    done = subprocess.run(["/bin/busybox", *argv], capture_output=True, text=True)
    if done.returncode:
        raise OSError(" ".join(argv) + ": " + done.stderr)

def cold():
    os.sync()
    open("/proc/sys/vm/drop_caches", "w").write("3")

def timed(step, action, *arguments):
    time.sleep(0.3)
    print("BEGIN", flush=True)
    begin = time.monotonic()
    action(*arguments)
    took = time.monotonic() - begin
    print("END", step, round(took, 3), flush=True)
    time.sleep(0.3)  # the host reads its clocks meanwhile

def make_files(where):
    for n in range(FILES):
        if n %% 50 == 0:
            os.mkdir(f"{where}/d{n // 50}")
        with open(f"{where}/d{n // 50}/f{n}", "wb") as file:
            file.write(b"x" * 3000)
    os.sync()

def walk(where):
    count = sum(os.lstat(os.path.join(d, n)).st_size > 0 for d, _, names in os.walk(where) for n in names)
    assert count >= FILES, count

def write_big(where):
    with open(f"{where}/big", "wb") as file:
        for _ in range(BIG_MIB):
            file.write(bytes(1 << 20))
        os.fsync(file.fileno())

def read_big(where):
    with open(f"{where}/big", "rb", buffering=0) as file:
        while file.read(1 << 18):
            pass

def syncs(where):
    with open(f"{where}/log", "wb", buffering=0) as file:
        for _ in range(SYNCS):
            file.write(bytes(8192))
            os.fsync(file.fileno())

def remove(where):
    run("rm", "-r", where)

def python(home):
    environment = {"PYTHONHOME": home, "PYTHONDONTWRITEBYTECODE": "1"}
    program = "import argparse, json, http.server, email.message, tempfile; assert json.__file__.startswith('/mnt')"
    subprocess.run(["/usr/bin/python3", "-S", "-c", program], env=environment, check=True)

os.mkdir("/mnt") if not os.path.isdir("/mnt") else None
for name, read, write, mounts in WAYS:
    seen = {"way": name}
    try:
        begin = time.monotonic()
        for source, kind, options, target in mounts:
            os.makedirs(target, exist_ok=True)
            run("mount", "-t", kind, "-o", options, source, target)
            if kind == "ext4":
                for one in ("upper", "work"):
                    os.makedirs(f"{target}/{one}", exist_ok=True)
        seen["mount_s"] = round(time.monotonic() - begin, 3)
        at = f"{write}/made-{name}"
        os.mkdir(at)
        cold()
        timed("create", make_files, at)
        cold()
        timed("walk_cold", walk, f"{read}/tree")
        timed("walk_warm", walk, f"{read}/tree")
        timed("write", write_big, at)
        cold()
        timed("read_cold", read_big, read)
        timed("fsync", syncs, at)
        cold()
        timed("python_cold", python, f"{read}/py")
        timed("python_warm", python, f"{read}/py")
        timed("remove", remove, at)
        for *_, target in reversed(mounts):
            run("umount", target)
    except Exception as error:
        seen["error"] = repr(error)
    print("RESULT", json.dumps(seen), flush=True)
os.sync()
print("RESULT", "end", flush=True)
open("/proc/sysrq-trigger", "w").write("b")
"""


def main():
    with tempfile.TemporaryDirectory(dir="/var/tmp") as work, contextlib.ExitStack() as running:
        print(json.dumps(measure(Path(work), running), indent=1))


def measure(work, running):
    tree = work / "tree"
    for part in ("tree", "py/lib"):
        (tree / part).mkdir(parents=True)
    for number in range(FILES):
        (tree / f"tree/d{number // 50}").mkdir(exist_ok=True)
        (tree / f"tree/d{number // 50}/f{number}").write_bytes(b"x" * 3000)
    (tree / "big").write_bytes(bytes(BIG_MIB << 20))
    leave = shutil.ignore_patterns("test", "dist-packages", "config-*")
    shutil.copytree(PYTHON, tree / "py/lib" / PYTHON.name, ignore=leave)
    seen = {"release": _release(), "accelerator": accelerator.remembered()}

    begin = time.monotonic()
    sh("mkfs.erofs", "-T0", str(work / "erofs"), str(tree))
    seen["mkfs_erofs_s"] = round(time.monotonic() - begin, 2)
    begin = time.monotonic()
    sh("truncate", "-s", "8G", str(work / "ext4"))
    sh("mkfs.ext4", "-q", "-O", "^has_journal", str(work / "ext4"))
    seen["mkfs_ext4_s"] = round(time.monotonic() - begin, 2)
    seen["ext4_disk_kib"] = (work / "ext4").stat().st_blocks // 2
    begin = time.monotonic()
    sh("cp", "--sparse=always", str(work / "ext4"), str(work / "ext4-copy"))
    seen["copy_ext4_s"] = round(time.monotonic() - begin, 3)

    found = image.current()
    machine = template.machine(found, settings.Size("medium", 512, 1), seen["accelerator"])
    exports = ["none", "mmap", "loose", "loose1m", "ro"]
    machine = machine._replace(
        tap=None, shares=tuple((tag, str(tree)) for tag in exports), initrd=str(initrd(work, ways(exports)))
    )
    argv = machine.argv()
    for name in ("ext4", "erofs"):
        argv += ["-drive", f"if=none,id={name},format=raw,file={work / name},cache=unsafe" + (
            ",readonly=on" if name == "erofs" else ""), "-device", f"virtio-blk-device,drive={name}"]  # fmt: skip
    daemons = {}
    if VIRTIOFSD:
        for name, cache in (("vauto", "auto"), ("valways", "always")):
            daemons[name] = running.enter_context(virtiofsd(tree, work / name, cache))
            argv += ["-chardev", f"socket,id={name},path={work / name}",
                     "-device", f"vhost-user-fs-device,chardev={name},tag={name}"]  # fmt: skip
        argv += ["-global", "virtio-mmio.force-legacy=false"]  # vhost-user knows no other
        argv[argv.index("-M") + 1] += ",memory-backend=memory"
        argv += ["-object", "memory-backend-memfd,id=memory,size=512M,share=on"]
    qemu = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
    running.callback(qemu.kill)
    seen["ways"], printed, steps = [], [], {}
    for line in qemu.stdout:
        text = line.decode(errors="replace").strip()
        printed.append(text)
        if text == "RESULT end":
            seen["virtiofsd_rss_kib"] = {name: rss(process) for name, process in daemons.items()}
            return seen
        if text == "BEGIN":
            before = processor_s([qemu, *daemons.values()])
        elif text.startswith("END "):
            _, step, took = text.split()
            steps[step] = [float(took), round(processor_s([qemu, *daemons.values()]) - before, 2)]
        elif text.startswith("RESULT "):
            seen["ways"].append(json.loads(text.removeprefix("RESULT ")) | steps)
            steps = {}
    return seen | {"printed": printed[-20:]}


def ways(exports):
    """Name, directory to read in, directory to write in, mounts (source, type, options, target)."""
    p9 = {tag: ("mmap" if tag == "mmap" else "none" if tag == "none" else "loose") for tag in exports}
    listed = []
    for tag, cache in p9.items():
        msize = 1 << 20 if tag == "loose1m" else 1 << 18
        options = f"trans=virtio,version=9p2000.L,msize={msize},cache={cache}"
        mount = [tag, "9p", options, f"/mnt/{tag}"]
        if tag != "ro":
            listed.append([f"9p-{tag}", f"/mnt/{tag}", f"/mnt/{tag}", [mount]])
    disk = ["/dev/vdb", "ext4", "rw", "/mnt/disk"]
    for name, lower in (("9p-lower", mount), ("erofs-lower", ["/dev/vdc", "erofs", "ro", "/mnt/erofs"])):
        options = f"lowerdir={lower[3]},upperdir=/mnt/disk/upper,workdir=/mnt/disk/work"
        listed.append(
            [f"overlay-{name}", "/mnt/over", "/mnt/over", [lower, disk, ["o", "overlay", options, "/mnt/over"]]]
        )
    if VIRTIOFSD:
        for tag in ("vauto", "valways"):
            listed.append(
                [f"virtiofs-{tag[1:]}", f"/mnt/{tag}", f"/mnt/{tag}", [[tag, "virtiofs", "rw", f"/mnt/{tag}"]]]
            )
    return [way for way in listed if way[0] in sys.argv[1:] or not sys.argv[1:]]


def initrd(work, listed):
    """The image's initramfs with more modules, and a program of our own in place of the agent."""
    kernel = work / "kernel"
    kernel.mkdir()
    release = image.current().kernel
    sh("apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", f"linux-image-{release}", cwd=work)
    sh("dpkg-deb", "-x", str(next(work.glob("linux-image-*.deb"))), str(kernel))
    image.MODULES += ("fuse", "virtiofs", "ext4")
    modules = image._modules(next(kernel.rglob("modules.builtin")).parent)
    archive = cpio.Writer()
    for name in ("bin", "modules", "dev", "proc", "sys", "lower", "rw", "root"):
        archive.directory(name)
    archive.file("bin/busybox", Path("/bin/busybox").read_bytes(), 0o755)
    archive.file("modules/order", "".join(f"{name}.ko\n" for name in modules).encode())
    for name, content in modules.items():
        archive.file(f"modules/{name}.ko", content)
    archive.file("init", INIT.encode(), 0o755)
    arguments = json.dumps([listed, FILES, BIG_MIB, SYNCS, PYTHON.name])
    archive.file("measure.py", (MEASURE % {"arguments": arguments}).encode())
    (work / "initrd").write_bytes(archive.end())
    return work / "initrd"


@contextlib.contextmanager
def virtiofsd(tree, socket, cache):
    if VIRTIOFSD.startswith("/usr/lib/qemu"):
        options = ["-o", f"source={tree}", "-o", f"cache={cache}", "-o", "sandbox=chroot"]
    else:
        options = [f"--shared-dir={tree}", f"--cache={cache}", "--sandbox=chroot"]
    process = subprocess.Popen([VIRTIOFSD, f"--socket-path={socket}", *options], stderr=subprocess.DEVNULL)
    try:
        while not socket.exists():
            time.sleep(0.05)
            assert process.poll() is None, "virtiofsd does not start"
        yield process
    finally:
        process.kill()
        process.wait()


def processor_s(processes):
    ticks = 0
    for process in processes:
        ticks += sum(int(n) for n in Path(f"/proc/{process.pid}/stat").read_text().rsplit(")")[1].split()[11:13])
    return ticks / os.sysconf("SC_CLK_TCK")


def rss(process):
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith("VmRSS")), None)


def _release():
    return next(line for line in Path("/etc/os-release").read_text().splitlines() if "CODENAME" in line).split("=")[1]


def sh(*argv, cwd=None):
    subprocess.run(argv, check=True, capture_output=True, cwd=cwd)


if __name__ == "__main__":
    main()
