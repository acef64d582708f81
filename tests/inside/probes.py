"""Programs of an attacker. Each prints one JSON object: an attempt's name, and "done" or the error it met."""

# In the jail or a stand-in, and on the host for comparison. Variables: host_pid, abstract, ctl.
JAIL = r"""
import ctypes, errno, os, socket, resource
libc = ctypes.CDLL(None, use_errno=True)
seen = {}

def attempt(name, action):
    try:
        action()
        seen[name] = "done"
    except OSError as error:
        seen[name] = errno.errorcode[error.errno]

def call(number, *arguments):
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *map(ctypes.c_long, arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), "")
    return result

# Arguments with which the call does nothing, or fails for a reason of its own, where it is let through.
CALLS = {
    "ptrace": (101, 16, 0, 0, 0), "mount": (165, 0, 0, 0, 0, 0), "umount2": (166, 0, 0), "pivot_root": (155, 0, 0),
    "chroot": (161, 0), "setns": (308, -1, 0), "unshare": (272, 0x04000000), "bpf": (321, 0, 0, 0),
    "perf_event_open": (298, 0, 0, -1, -1, 0), "userfaultfd": (323, -1), "io_uring_setup": (425, 0, 0),
    "keyctl": (250, 0, -3, 0), "add_key": (248, 0, 0, 0, 0, -3), "request_key": (249, 0, 0, 0, 0),
    "process_vm_readv": (310, 0, 0, 0, 0, 0, 0), "process_vm_writev": (311, 0, 0, 0, 0, 0, 0),
    "open_by_handle_at": (304, -1, 0, 0), "name_to_handle_at": (303, -1, 0, 0, 0, 0), "pidfd_open": (434, -1, 0),
    "pidfd_getfd": (438, -1, 0, 0), "fsopen": (430, 0, 0), "open_tree": (428, -1, 0, 0),
    "move_mount": (429, -1, 0, -1, 0, 0),
    "mount_setattr": (442, -1, 0, 0, 0, 0), "personality": (135, 0xFFFFFFFF), "shmget": (29, 0, 0, 0),
    "quotactl": (179, -1, 0, 0, 0), "clone3": (435, 0, 0), "setuid": (105, os.geteuid()), "syslog": (103, 10, 0, 0),
}
for name, arguments in CALLS.items():
    attempt("call " + name, lambda: call(*arguments))

def new_user_namespace():
    child = call(56, 0x10000000 | 17, 0, 0, 0, 0)
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)

attempt("clone of a user namespace", new_user_namespace)
attempt("clone of a process", lambda: os.waitpid(os.fork() or os._exit(0), 0))

for name in ("AF_INET", "AF_INET6", "AF_NETLINK", "AF_PACKET"):
    family = getattr(socket, name)
    kind = socket.SOCK_RAW if family > 10 else socket.SOCK_STREAM
    attempt("socket " + name, lambda: socket.socket(family, kind).close())

def connect(address):
    with socket.socket(socket.AF_UNIX) as link:
        link.connect(address)

attempt("abstract socket of the host", lambda: connect("\0" + abstract))
attempt("containerd's socket", lambda: connect("/run/containerd/containerd.sock"))
attempt("the pod's own socket", lambda: connect(ctl + "/sock"))

for path in ("/etc", "/var/lib", "/root", "/sys", "/run/containerd", "/dev/kvm", "/proc/self/status"):
    attempt("see " + path, lambda: os.close(os.open(path, os.O_RDONLY)))
attempt("see host's init", lambda: os.listdir("/proc/1/root/etc"))
attempt("memory of the first process", lambda: os.close(os.open("/proc/1/mem", os.O_RDWR)))
attempt("memory of its own", lambda: os.close(os.open("/proc/self/mem", os.O_RDWR)))
attempt("signal to a process of the host", lambda: os.kill(host_pid, 0))
for path in ("/usr/bin/attempt", "/attempt", "/run/attempt"):
    def write(path=path):
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
        os.unlink(path)
    attempt("write " + path, write)
for path in ("/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger"):
    attempt("write " + path, lambda: os.close(os.open(path, os.O_WRONLY)))

def special(kind, device=0):
    path = (ctl if os.access(ctl, os.W_OK) else "/tmp") + "/node"
    os.mknod(path, kind | 0o600, device)
    os.unlink(path)

attempt("mknod of a device", lambda: special(0o60000, os.makedev(7, 0)))
attempt("mknod of a pipe", lambda: special(0o10000))
seen["capabilities"] = [l.split()[1] for l in open("/proc/self/status") if l.startswith("CapEff")][0]
seen["users of processes"] = sorted({int(l.split()[1]) for p in os.listdir("/proc") if p.isdigit()
                                     for l in open(f"/proc/{p}/status") if l.startswith("Uid")})
seen["core"] = resource.getrlimit(resource.RLIMIT_CORE)
seen["user"] = os.geteuid()
print(json.dumps(seen))
"""

# In the jail: how much of the host can be filled. Variables: ctl.
FILL = r"""
import errno, os, signal
seen = {}

def fill(directory):
    written = 0
    file = os.open(directory + "/fill", os.O_CREAT | os.O_WRONLY)
    try:
        for _ in range(64):
            written += os.write(file, bytes(1 << 20))
    except OSError as error:
        assert error.errno == errno.ENOSPC
    finally:
        os.close(file)
        os.unlink(directory + "/fill")
    return written

seen["bytes of ctl"], seen["bytes of dev"] = fill(ctl), fill("/dev")
names = []
try:
    for number in range(5000):
        os.mkdir(f"{ctl}/d{number}")
        names.append(f"{ctl}/d{number}")
except OSError as error:
    assert error.errno == errno.ENOSPC
seen["files of ctl"] = len(names)
for name in names:
    os.rmdir(name)
children = []
try:
    for _ in range(5000):
        child = os.fork()
        if child == 0:
            signal.pause()
        children.append(child)
except OSError as error:
    assert error.errno == errno.EAGAIN
for child in children:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
seen["processes"] = len(children)
print(json.dumps(seen))
"""

# In the jail: what a file server does for a guest's root, and which of it fails. Variables: directory, which has a
# file `theirs` of another user and group, and no others' permissions.
SERVE = r"""
import os
seen = []

def attempt(capability, action):
    try:
        if action() is not False:
            return
    except PermissionError:
        pass
    seen.append(capability)

theirs = directory + "/theirs"
attempt("CAP_DAC_OVERRIDE", lambda: os.close(os.open(theirs, os.O_RDWR)))
attempt("CAP_CHOWN", lambda: os.chown(theirs, 1234, 5678))
attempt("CAP_FOWNER", lambda: os.chmod(theirs, 0o600))

def set_group_id():
    if "CAP_FOWNER" not in seen:
        os.chmod(theirs, 0o2710)
        return bool(os.stat(theirs).st_mode & 0o2000)

attempt("CAP_FSETID", set_group_id)
file_capability = bytes.fromhex("0100000200040000000000000000000000000000")
attempt("CAP_SETFCAP", lambda: os.setxattr(theirs, "security.capability", file_capability))
print(json.dumps({"failed": seen}))
"""

# In the jail: more memory than the pod was given. Variables: mib.
MEMORY = r"""
import mmap
held = []
for number in range(mib):
    block = mmap.mmap(-1, 1 << 20)
    for page in range(0, 1 << 20, 4096):
        block[page] = 1
    held.append(block)
print(json.dumps({"mib": len(held)}))
"""

# As root of the guest. Variables: writable, read_only (two volumes' directories in the guest), share, volumes.
GUEST = r"""
import errno, os, subprocess
seen = {}

def attempt(name, action):
    try:
        result = action()
        seen[name] = "done" if result is None else result
    except OSError as error:
        seen[name] = errno.errorcode[error.errno]

def write(path, data=b"x"):
    with open(path, "wb") as file:
        file.write(data)

attempt("containers in the share", lambda: sorted(n for n in os.listdir(share) if not n.startswith("attacker-")))
attempt("volumes", lambda: sorted(os.listdir(volumes)))
attempt("above the share", lambda: os.path.samefile(share + "/..", "/run"))
attempt("write to a volume", lambda: write(writable + "/written"))
attempt("write to a read-only volume", lambda: write(read_only + "/written"))
subprocess.run(["/bin/busybox", "mount", "-o", "remount,rw", volumes], capture_output=True)
attempt("write to it, mounted anew", lambda: write(read_only + "/written"))
attempt("change of its mode", lambda: os.chmod(read_only + "/file", 0o777))
attempt("removal from it", lambda: os.unlink(read_only + "/file"))
attempt("link within a volume", lambda: os.link(writable + "/written", writable + "/linked"))
attempt("link from another volume", lambda: os.link(read_only + "/file", writable + "/stolen"))
attempt("rename into another volume", lambda: os.rename(writable + "/linked", read_only + "/linked"))
attempt("mknod of a device", lambda: os.mknod(writable + "/device", 0o60600, os.makedev(7, 0)))
attempt("mknod of a file", lambda: os.mknod(writable + "/node", 0o100600))
attempt("set-user-ID program", lambda: (write(writable + "/suid", open("/bin/busybox", "rb").read()),
                                        os.chmod(writable + "/suid", 0o4755))[2:] or None)
attempt("small attribute", lambda: os.setxattr(writable + "/written", "user.small", b"x"))
attempt("huge attribute", lambda: os.setxattr(writable + "/written", "user.huge", bytes(65536)))
attempt("attribute too big for any file system", lambda: os.setxattr(writable + "/written", "user.big", bytes(60000)))
os.symlink("/etc/hostname", writable + "/link")
seen["a link's text"] = os.readlink(writable + "/link")
attempt("read the root file system's disk", lambda: open("/dev/vda", "rb").read(16) and None)
attempt("write to it", lambda: os.write(os.open("/dev/vda", os.O_WRONLY), b"x" * 512) and None)
os.mkdir(writable + "/swap")
write(writable + "/swap/hostname", b"of the guest")
held = os.open(writable + "/swap", os.O_PATH)
def through():
    file = os.open("hostname", os.O_RDONLY, dir_fd=held)
    try:
        return os.read(file, 100).decode()
    finally:
        os.close(file)
attempt("through a directory", through)
write(writable + "/now")
import time
while not os.path.exists(writable + "/swapped"):
    time.sleep(0.05)
with open("/proc/sys/vm/drop_caches", "w") as file:
    file.write("1")
attempt("through the directory, a link to the host's by now", through)
attempt("writing through it", lambda: os.close(os.open("casemate-attempt", os.O_CREAT | os.O_WRONLY, dir_fd=held)))
os.close(held)
print(json.dumps(seen))
"""

# As root of the guest: bytes of its own choice on the agent's port. Variables: frames (hex).
PORT = r"""
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
pid = libc.syscall(434, 1, 0)
port = next(n for n in os.listdir("/proc/1/fd") if "/vport" in os.readlink("/proc/1/fd/" + n))
own = libc.syscall(438, pid, int(port), 0)
assert own >= 0, ctypes.get_errno()
os.set_blocking(own, True)
print(json.dumps({"sent": True}), flush=True)
import time
time.sleep(1)
os.write(own, bytes.fromhex(frames))
time.sleep(5)
"""
