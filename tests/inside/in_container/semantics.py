"""Runs in a container: asks a directory for what programs expect of a file system.

python3 semantics.py DIRECTORY FILES   prints {check: "ok" or what was seen instead}; FILES in the big directory
python3 semantics.py serve PORT        does what comes as one line of JSON a connection: Python to run, in one
                                       name space for all; answers with {"value"} or {"error"}
"""

import contextlib
import ctypes
import errno
import fcntl
import json
import mmap
import os
import select
import socket
import stat
import struct
import sys
import time

libc = ctypes.CDLL(None, use_errno=True)
CHECKS = []
FILES = 1000


def check(function):
    CHECKS.append(function)
    return function


def call(name, *arguments):
    """Call the C library; raise OSError as Python's own functions do."""
    result = getattr(libc, name)(*arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def put(path, data=b"data"):
    with open(path, "wb") as file:
        file.write(data)


def get(path):
    with open(path, "rb") as file:
        return file.read()


def expect(seen, wanted):
    if seen != wanted:
        raise ValueError(f"{str(seen)[:80]} and not {str(wanted)[:80]}")


@contextlib.contextmanager
def expect_error(code):
    try:
        yield
    except OSError as error:
        expect(errno.errorcode[error.errno], errno.errorcode[code])
    else:
        raise ValueError(f"no {errno.errorcode[code]}")


def child(action, *arguments):
    """Run `action` in a process of its own; return a function that waits for it and raises what went wrong there."""
    reader, writer = os.pipe()
    if (pid := os.fork()) == 0:
        try:
            action(*arguments)
        except BaseException as error:
            os.write(writer, repr(error).encode())
        os._exit(0)
    os.close(writer)

    def join():
        with open(reader, "rb") as file:
            said = file.read().decode()
        os.waitpid(pid, 0)
        if said:
            raise ValueError(f"in the other process: {said}")

    return join


@check
def rename_over_a_file():
    put("a", b"new")
    put("b", b"old")
    with open("b", "rb") as old:
        os.rename("a", "b")
        expect(get("b"), b"new")
        expect(old.read(), b"old")
    expect(os.path.exists("a"), False)


@check
def rename_directories():
    os.makedirs("d1/sub")
    put("d1/sub/file")
    os.mkdir("empty")
    os.rename("d1", "empty")
    expect(get("empty/sub/file"), b"data")
    os.makedirs("full/x")
    with expect_error(errno.ENOTEMPTY):
        os.rename("empty", "full")


@check
def rename_across_directories_while_open():
    os.makedirs("from/deep")
    os.mkdir("to")
    put("from/deep/file", b"one")
    with open("from/deep/file", "r+b", buffering=0) as file:
        os.rename("from/deep", "to/deep")
        os.rename("to/deep/file", "file-now-here")
        file.seek(0, 2)
        file.write(b" two")
        os.fsync(file.fileno())
        expect(os.fstat(file.fileno()).st_size, 7)
        file.truncate(6)
    expect(get("file-now-here"), b"one tw")


@check
def rename_flags():
    put("a", b"a")
    put("b", b"b")
    with expect_error(errno.EEXIST):
        call("renameat2", -100, b"a", -100, b"b", 1)  # RENAME_NOREPLACE
    call("renameat2", -100, b"a", -100, b"b", 2)  # RENAME_EXCHANGE
    expect((get("a"), get("b")), (b"b", b"a"))


@check
def hard_links():
    put("one")
    os.link("one", "two")
    expect(os.stat("one").st_nlink, 2)
    expect(os.stat("one").st_ino, os.stat("two").st_ino)
    put("two", b"both")
    expect(get("one"), b"both")
    os.unlink("one")
    expect((get("two"), os.stat("two").st_nlink), (b"both", 1))


@check
def symbolic_links():
    os.symlink("not/there", "dangling")
    os.symlink("x" * 1000, "long")
    expect(os.readlink("dangling"), "not/there")
    expect(os.readlink("long"), "x" * 1000)
    expect(os.path.exists("dangling"), False)
    with expect_error(errno.ELOOP):
        os.open("dangling", os.O_RDONLY | os.O_NOFOLLOW)
    put("target")
    os.symlink("target", "link")
    expect(get("link"), b"data")


@check
def user_attributes():
    put("file")
    os.setxattr("file", "user.one", b"1" * 1000)
    os.setxattr("file", "user.two", b"2")
    expect(os.getxattr("file", "user.one"), b"1" * 1000)
    expect(sorted(os.listxattr("file")), ["user.one", "user.two"])
    with expect_error(errno.EEXIST):
        os.setxattr("file", "user.two", b"x", os.XATTR_CREATE)
    os.removexattr("file", "user.one")
    with expect_error(errno.ENODATA):
        os.getxattr("file", "user.one")


@check
def file_capabilities():
    put("program")
    value = struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0)  # cap_net_bind_service+ep
    os.setxattr("program", "security.capability", value)
    expect(os.getxattr("program", "security.capability"), value)


@check
def trusted_attributes_are_not_a_containers():
    put("file")
    with expect_error(errno.EPERM):
        os.setxattr("file", "trusted.x", b"1")


@check
def unlinked_file_is_read_and_written():
    with open("file", "w+b", buffering=0) as file:
        file.write(b"first")
        os.unlink("file")
        file.write(b" second")
        file.seek(0)
        expect(file.read(), b"first second")


@check
def unlinked_file_is_asked_for_its_size():
    with open("file", "w+b", buffering=0) as file:
        file.write(b"first")
        os.unlink("file")
        file.write(b" second")
        found = os.fstat(file.fileno())
        expect((found.st_size, found.st_nlink), (12, 0))


@check
def unlinked_file_is_truncated():
    with open("file", "w+b", buffering=0) as file:
        file.write(b"first")
        os.unlink("file")
        file.truncate(100000)
        expect(os.fstat(file.fileno()).st_size, 100000)


@check
def unlinked_file_is_synced():
    with open("file", "w+b", buffering=0) as file:
        os.unlink("file")
        file.write(b"first")
        os.fsync(file.fileno())


@check
def removed_directory_is_empty():
    os.mkdir("d")
    fd = os.open("d", os.O_RDONLY)
    os.rmdir("d")
    expect(os.listdir(fd), [])
    os.close(fd)


@check
def nameless_files():
    try:
        fd = os.open(".", os.O_TMPFILE | os.O_RDWR, 0o600)
    except OSError as error:
        expect(error.errno, errno.EOPNOTSUPP)  # as many file systems; programs know what to do then
        return
    os.write(fd, b"x")
    expect(os.fstat(fd).st_size, 1)


@check
def flock_between_processes():
    with open("lock", "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)

        def other():
            with open("lock", "w") as mine, expect_error(errno.EAGAIN):
                fcntl.flock(mine, fcntl.LOCK_EX | fcntl.LOCK_NB)

        child(other)()


@check
def posix_locks_between_processes():
    put("lock", bytes(100))
    with open("lock", "r+b") as held:
        fcntl.lockf(held, fcntl.LOCK_EX, 10, 5)

        def other():
            with open("lock", "r+b") as mine:
                fcntl.lockf(mine, fcntl.LOCK_EX | fcntl.LOCK_NB, 5, 20)
                with expect_error(errno.EAGAIN):
                    fcntl.lockf(mine, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 12)
                asked = struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 12, 1, 0)
                answer = struct.unpack("hhqqi4x", fcntl.fcntl(mine, fcntl.F_GETLK, asked))
                expect((answer[0], answer[2], answer[4]), (fcntl.F_WRLCK, 5, os.getppid()))

        child(other)()


@check
def waiting_for_a_lock():
    with open("lock", "w") as held:
        fcntl.lockf(held, fcntl.LOCK_EX)

        def other():
            with open("lock", "w") as mine:
                fcntl.lockf(mine, fcntl.LOCK_EX)
                expect(os.path.exists("released"), True)

        join = child(other)
        time.sleep(0.3)
        put("released")
        fcntl.lockf(held, fcntl.LOCK_UN)
        join()


@check
def shared_mapping_is_written():
    put("file", bytes(10000))
    with open("file", "r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:

        def other():
            with open("file", "r+b") as file, mmap.mmap(file.fileno(), 0) as mine:
                mine[5000:5005] = b"other"
                mine.flush()

        child(other)()
        expect(mapped[5000:5005], b"other")
        mapped[0:4] = b"mine"
        mapped.flush()
        expect(get("file")[:4], b"mine")


@check
def private_mapping_and_a_mapping_past_unlink():
    put("file", b"x" * 8192)
    with open("file", "r+b") as file:
        with mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE) as mapped:
            mapped[0] = ord("y")
        expect(get("file")[:1], b"x")
        with mmap.mmap(file.fileno(), 0) as mapped:
            os.unlink("file")
            mapped[0] = ord("z")
            mapped.flush()
            expect(os.pread(file.fileno(), 1, 0), b"z")


@check
def sparse_file():
    with open("file", "wb") as file:
        file.seek(1 << 30)
        file.write(b"end")
    found = os.stat("file")
    expect(found.st_size, (1 << 30) + 3)
    expect(found.st_blocks < 2048, True)


@check
def holes_are_found():
    with open("file", "wb") as file:
        file.seek(1 << 20)
        file.write(b"end")
        file.flush()
        os.fsync(file.fileno())
        if os.lseek(file.fileno(), 0, os.SEEK_DATA) == 0:
            raise ValueError("all data")


@check
def fallocate():
    with open("file", "wb") as file:
        call("fallocate", file.fileno(), 0, ctypes.c_long(0), ctypes.c_long(1 << 20))
        expect(os.fstat(file.fileno()).st_size, 1 << 20)


@check
def posix_fallocate():
    with open("file", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, 1 << 20)
        expect(os.fstat(file.fileno()).st_size, 1 << 20)


@check
def punch_hole():
    put("file", b"x" * (1 << 20))
    with open("file", "r+b") as file:
        call("fallocate", file.fileno(), 3, ctypes.c_long(0), ctypes.c_long(1 << 19))
        os.fsync(file.fileno())
        expect(file.read(4), bytes(4))
        expect(os.fstat(file.fileno()).st_blocks <= 1500, True)


@check
def two_writers_append():
    def write(letter):
        fd = os.open("log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        for _ in range(100):
            os.write(fd, letter * 99 + b"\n")

    joins = [child(write, letter) for letter in (b"a", b"b")]
    for join in joins:
        join()
    lines = get("log").split(b"\n")[:-1]
    expect(len(lines), 200)
    expect({line for line in lines}, {b"a" * 99, b"b" * 99})


@check
def direct_io():
    buffer = mmap.mmap(-1, 8192)  # aligned
    buffer[:] = b"d" * 8192
    fd = os.open("file", os.O_RDWR | os.O_CREAT | os.O_DIRECT, 0o644)
    expect(os.write(fd, buffer), 8192)
    buffer[:] = bytes(8192)
    os.lseek(fd, 0, 0)
    expect(os.readv(fd, [buffer]), 8192)
    expect(buffer[:], b"d" * 8192)
    expect(get("file"), b"d" * 8192)
    os.close(fd)


@check
def inotify_tells_of_our_own_changes():
    watch = call("inotify_init1", os.O_NONBLOCK)
    call("inotify_add_watch", watch, b".", 0x100 | 0x8)  # IN_CREATE, IN_CLOSE_WRITE
    child(put, "new")()
    expect(bool(select.select([watch], [], [], 5)[0]), True)
    expect(b"new" in os.read(watch, 4096), True)


@check
def all_kinds_of_sync():
    fd = os.open("file", os.O_RDWR | os.O_CREAT | os.O_SYNC, 0o644)
    os.write(fd, b"x")
    os.fsync(fd)
    os.fdatasync(fd)
    call("syncfs", fd)
    here = os.open(".", os.O_RDONLY)
    os.fsync(here)
    os.close(here)
    os.close(fd)


@check
def more_than_4_gib():
    with open("file", "w+b", buffering=0) as file:
        os.pwrite(file.fileno(), b"far", 5 << 30)
        expect(os.fstat(file.fileno()).st_size, (5 << 30) + 3)
        expect(os.pread(file.fileno(), 3, 5 << 30), b"far")
        expect(os.pread(file.fileno(), 3, 1 << 30), bytes(3))
    os.unlink("file")


@check
def long_names():
    put("n" * 255)
    expect(os.listdir("."), ["n" * 255])
    with expect_error(errno.ENAMETOOLONG):
        put("n" * 256)


@check
def names_of_any_bytes():
    names = {b"new\nline", b"\xff\xfe\x80", b"back\\slash", b'quo"te', b" ", b"\xf0\x9f\x98\x80", b"-rf", b"a\tb"}
    for name in names:
        put(name, name)
    expect(set(os.listdir(b".")), names)
    expect({get(name) for name in names}, names)
    os.rename(b"\xff\xfe\x80", b"\xc3\x28")
    os.unlink(b"\xc3\x28")


@check
def deep_paths():
    path = "/".join(["d" * 50] * 30)
    os.makedirs(path)
    put(f"{path}/file")
    expect(get(f"{path}/file"), b"data")
    os.rename("d" * 50, "renamed")
    expect(get("renamed/" + path.partition("/")[2] + "/file"), b"data")


@check
def many_files_in_a_directory():
    for number in range(FILES):
        os.close(os.open(f"file-{number}", os.O_CREAT | os.O_WRONLY, 0o644))
    expect(len(set(os.listdir("."))), FILES)
    for entry in os.scandir("."):  # removing while reading must miss none
        os.unlink(entry.path)
    expect(os.listdir("."), [])


@check
def owners_and_modes():
    put("file")
    os.chmod("file", 0o6755)
    expect(stat.S_IMODE(os.stat("file").st_mode), 0o6755)
    os.chown("file", 1234, 5678)
    found = os.stat("file")
    expect((found.st_uid, found.st_gid), (1234, 5678))
    expect(stat.S_IMODE(found.st_mode), 0o755)  # a change of owner takes set-user-ID away
    os.mkdir("d")
    os.chmod("d", 0o2775)
    os.chown("d", 0, 777)
    os.mkdir("d/below")
    expect(os.stat("d/below").st_gid, 777)
    os.symlink("file", "link")
    os.lchown("link", 1, 2)
    expect((os.lstat("link").st_uid, os.stat("link").st_uid), (1, 1234))


@check
def permissions_hold_for_users():
    put("mine")
    os.chmod("mine", 0o600)
    os.mkdir("closed", 0o700)
    os.mkdir("open")
    os.chmod("open", 0o777)

    def other():
        os.setgroups([])
        os.setgid(5678)
        os.setuid(1234)
        for action in (lambda: get("mine"), lambda: put("closed/x"), lambda: os.chmod("mine", 0o777)):
            try:
                action()
            except PermissionError:
                continue
            raise ValueError("a stranger may")
        put("open/theirs")
        found = os.stat("open/theirs")
        expect((found.st_uid, found.st_gid), (1234, 5678))

    child(other)()


@check
def write_takes_set_user_id_away():
    put("file")
    os.chown("file", 1234, 1234)
    os.chmod("file", 0o4777)

    def other():
        os.setgid(5678)
        os.setuid(5678)
        with open("file", "ab") as file:
            file.write(b"x")

    child(other)()
    if os.stat("file").st_mode & stat.S_ISUID:
        raise ValueError("set-user-ID stays")


@check
def fifos():
    os.mkfifo("pipe")
    join = child(put, "pipe", b"through")
    expect(get("pipe"), b"through")
    join()


@check
def unix_sockets():
    server = socket.socket(socket.AF_UNIX)
    server.bind("socket")
    server.listen()
    expect(stat.S_ISSOCK(os.stat("socket").st_mode), True)

    def other():
        with socket.socket(socket.AF_UNIX) as client:
            client.connect("socket")
            client.sendall(b"hello")

    join = child(other)
    connection, _ = server.accept()
    expect(connection.recv(100), b"hello")
    join()


@check
def times():
    os.utime(".", ns=(10**18, 10**18))
    put("file")
    expect(os.stat(".").st_mtime_ns > 10**18, True)  # a new file changes its directory's
    os.utime("file", ns=(1_000_000_001_123_456_789, 1_500_000_000_987_654_321))
    found = os.stat("file")
    put("file", b"changed")
    expect(abs(os.stat("file").st_mtime - time.time()) < 60, True)
    if (found.st_atime_ns, found.st_mtime_ns) == (1_000_000_001_000_000_000, 1_500_000_000_000_000_000):
        raise ValueError("whole seconds")
    expect((found.st_atime_ns, found.st_mtime_ns), (1_000_000_001_123_456_789, 1_500_000_000_987_654_321))


@check
def truncate():
    put("file", b"x" * 10000)
    os.truncate("file", 5)
    expect(get("file"), b"xxxxx")
    os.truncate("file", 8)
    expect(get("file"), b"xxxxx\0\0\0")
    with open("file", "r+b") as file:
        file.truncate(0)
    expect(os.stat("file").st_size, 0)


@check
def exclusive_creation():
    put("file")
    with expect_error(errno.EEXIST):
        os.open("file", os.O_CREAT | os.O_EXCL | os.O_WRONLY)


@check
def copies_in_the_kernel():
    put("from", b"x" * 100000)
    with open("from", "rb") as source, open("to", "wb") as target:
        sent = os.sendfile(target.fileno(), source.fileno(), 0, 50000)
        expect(sent, 50000)
        target.flush()
        try:
            os.copy_file_range(source.fileno(), target.fileno(), 50000, 50000, 50000)
        except OSError as error:  # not everywhere; programs then copy themselves
            expect(error.errno in (errno.EXDEV, errno.EOPNOTSUPP, errno.EINVAL), True)
            os.pwrite(target.fileno(), get("from")[50000:], 50000)
    expect(get("to"), b"x" * 100000)


@check
def file_system_statistics():
    found = os.statvfs(".")
    expect(found.f_blocks >= found.f_bfree >= found.f_bavail > 0, True)
    expect(found.f_frsize >= 512 and found.f_namemax >= 255, True)


def examine(directory):
    seen = {}
    for function in CHECKS:
        place = os.path.join(directory, function.__name__)
        os.mkdir(place)
        os.chdir(place)
        try:
            function()
            seen[function.__name__] = "ok"
        except Exception as error:
            code = getattr(error, "errno", None)
            seen[function.__name__] = errno.errorcode.get(code, str(code)) if code else f"{error}"
    return seen


def serve(port):
    names = globals()
    server = socket.create_server(("", port), backlog=8)
    while True:
        connection, _ = server.accept()
        with connection, connection.makefile("rw") as stream:
            try:
                code, *last = json.loads(stream.readline())
                exec(code, names)
                answer = {"value": eval(last[0], names) if last else None}
            except Exception as error:
                code = getattr(error, "errno", None)
                answer = {"error": errno.errorcode.get(code, repr(error)) if code else repr(error)}
            stream.write(json.dumps(answer) + "\n")
            stream.flush()


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(int(sys.argv[2]))
    FILES = int(sys.argv[2])
    print(json.dumps(examine(sys.argv[1])))
