"""The guest's agent and PID 1: starts the pod's containers with the guest's own crun, carries their input and output.

It answers the calls that protocol.py describes, over one virtio-serial port:

======== ============================== ============================================================
call     takes                          does
======== ============================== ============================================================
ping                                    tells that the guest is up
configure see `Agent.call_configure`    gives a fresh or restored guest its identity and network
create   id, spec (OCI config.json),    ``crun create``, begun and not waited for: who asks for the program to start
         processes_of                   learns what went wrong. The container goes when the caller goes without having
                                        ended its input, which says that its own half is done
exec     id, process (OCI process)      ``crun exec``; replies with the program's ``key`` when it runs, and ends it when
                                        the caller goes before anybody has attached to it
attach   key (a container's id, or      starts a container's program; input and output until EXIT
         one that exec gave)
started  id (or a key)                  starts a container's program; replies when it runs and is attached to, or why
                                        it does not
delete   id                             ``crun delete --force``
dial     port                           connects to it on the guest's localhost, then input and output until EXIT
pause, resume, update (resources)  id   what crun does under these names
signal   id, number                     sends a signal to the container's program
clock    time_ns                        brings the clock to the host's
stats                                   what the guest and each of its containers use, see `Agent.call_stats`
======== ============================== ============================================================

The agent has one thread and never waits for a child: it is the parent that crun's orphans come to, so exit codes
are read from the kernel and exact.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import fcntl
import json
import os
import resource
import selectors
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
import traceback
from collections.abc import Callable
from pathlib import Path

# Beside this file in the guest; -I keeps that directory off the path.
sys.path.insert(0, str(Path(__file__).parent))

import network
import protocol
from dial import MOST as MOST_DIALS
from dial import Dial

RUN = Path("/run/casemate")
SHARE, DISK = Path("/run/share"), Path("/run/disk")
PORT_NAME = "casemate"
BUSYBOX = "/bin/busybox"
CRUN = "/usr/bin/crun"
CRUN_STATE = Path("/run/crun")
FIRST = "casemate.first"
FIRST_WITHIN_S = 30
PIPE_BYTES = 1 << 16  # what a pipe takes at once
LIBC = ctypes.CDLL(None, use_errno=True)
STEP_CLOCK_NS = 1_000_000_000
SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
CGROUPS = Path("/sys/fs/cgroup/pod")
OPEN_FILES = 1 << 20  # as under the engine's own service, where limits come from that
CLONE_NEWPID = 0x20000000  # <linux/sched.h>
OUT_OF_MEMORY, NEVER = "/proc/self/oom_score_adj", "-1000"
MOST_PROCESSES = 1024
MS_NOATIME, MNT_DETACH = 1 << 10, 2  # <linux/mount.h>
RNDADDENTROPY, RNDRESEEDCRNG = 0x40085203, 0x5207  # <linux/random.h>


class CallError(Exception):
    """A call cannot be done; the text goes back to the caller."""


class Process:
    """One program in a container, and the ends of its pipes (or its terminal) that the agent holds."""

    def __init__(self, key: str, container: str, terminal: bool, spec: dict | None = None):
        self.key = key
        self.container = container
        self.name = container  # crun's for it
        self.terminal = terminal
        self.spec = spec  # OCI process of an exec; None for the container's own program
        self.out_of_memory = False
        self.stream: int | None = None
        self.pid: int | None = None
        self.exit_code: int | None = None
        self.stdin: int | None = None
        self.outputs: dict[int, int] = {}  # descriptor -> STDOUT or STDERR
        self.input = bytearray()
        self.input_ended = False
        self.window = protocol.WINDOW
        self.listening = False  # its output has gone somewhere: to its stream, or where nobody listens
        self.starting = False
        # What is to be done once crun has created it; None: it has.
        self.when_created: list[Callable[[], None]] | None = [] if spec is None else None
        self.start_result: dict | None = None if spec is None else {}
        self.start_waiters: list[int] = []


class Agent:
    def __init__(self, port: int, disk: str):
        self.port = port
        self.disk = disk
        self.decoder = protocol.Decoder(protocol.FROM_HOST)
        self.outgoing = bytearray()
        self.selector = selectors.DefaultSelector()
        self.children: dict[int, Callable[[int], None]] = {}
        self.orphans: dict[int, int] = {}  # exits of programs whose crun has not reported yet
        self.processes: dict[str, Process] = {}
        self.streams: dict[int, Process] = {}
        self.dials: dict[int, Dial] = {}
        # The container that each stream asked for, until the host has done its half.
        self.creators: dict[int, Process] = {}
        # The exec that each stream asked for, until somebody attaches to it.
        self.callers: dict[int, Process] = {}
        self.pod_init: subprocess.Popen | None = None
        self.counter = 0
        self.first: tuple[Process, int] | None = None
        self.program = sealed_copy(CRUN)
        os.set_blocking(port, False)
        self._watch(port, selectors.EVENT_READ, self._port_ready)
        wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._watch(wake_read, selectors.EVENT_READ, lambda _: self._reap(wake_read))

    # --- the loop

    def serve(self) -> None:
        while True:
            for key, events in self.selector.select():
                try:
                    key.data(events)
                except protocol.ProtocolError as error:
                    # What follows cannot be understood either: the guest ends, which the host reports.
                    raise SystemExit(f"casemate: the host does not speak our protocol: {error}") from None
                except Exception:  # PID 1 must not end: the guest's other containers would end with it
                    traceback.print_exc()

    def _watch(self, fd: int, events: int, handler: Callable[[int], None]) -> None:
        self.selector.register(fd, events, handler)

    def _forget(self, fd: int) -> None:
        with contextlib.suppress(KeyError):
            self.selector.unregister(fd)

    def _port_ready(self, events: int) -> None:
        if events & selectors.EVENT_READ:
            data = b""
            with contextlib.suppress(BlockingIOError):
                data = os.read(self.port, 65536)
                if not data:  # the host's end is closed for now
                    time.sleep(0.05)
            for kind, stream, payload in self.decoder.feed(data):
                try:
                    self._frame(kind, stream, payload)
                except Exception:  # of one stream, which must not keep the others' frames from being read
                    traceback.print_exc()
        if self.outgoing:
            self._flush()

    def _send(self, data: bytes) -> None:
        self.outgoing += data
        self._flush()

    def _flush(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self.outgoing:
                del self.outgoing[: os.write(self.port, self.outgoing[:65536])]
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if self.outgoing else 0)
        self.selector.modify(self.port, wanted, self._port_ready)

    def _frame(self, kind: int, stream: int, payload: bytes) -> None:
        if kind == protocol.CALL:
            self._call(stream, payload)
            return
        if stream in self.dials:
            self.dials[stream].frame(kind, payload)
            return
        if stream in self.creators:
            process = self.creators.pop(stream)
            if kind == protocol.HANGUP:
                self.call_delete(stream, id=process.container)
            return
        process = self.streams.get(stream) or self.callers.get(stream)
        if process is None:
            return
        if kind == protocol.STDIN:
            process.input += payload
            process.input_ended = process.input_ended or not payload
            self._write_input(process)
        elif kind == protocol.CREDIT:
            process.window += protocol.credit_of(payload)
            self._watch_outputs(process)
        elif kind == protocol.SIGNAL:
            self._signal(process, payload[0])
        elif kind == protocol.RESIZE and process.terminal and process.stdin is not None:
            fcntl.ioctl(process.stdin, termios.TIOCSWINSZ, struct.pack("HHHH", *struct.unpack("!HH", payload), 0, 0))
        elif kind == protocol.HANGUP:
            # Nobody listens any more: on the host, the program has ended, so it must end here.
            self._signal(process, signal.SIGKILL)
            process.stream, process.listening = None, True
            self.streams.pop(stream, None)
            self.callers.pop(stream, None)
            self._watch_outputs(process)

    def _call(self, stream: int, payload: bytes) -> None:
        try:
            call = protocol.content(payload)
            if (version := call.pop("version", None)) != protocol.VERSION:
                raise CallError(
                    f"this guest speaks version {protocol.VERSION} and was called in version {version}: "
                    "it was made by another release; a new pod gets a guest of the present one"
                )
            if len(self.processes) >= MOST_PROCESSES and call["op"] in ("create", "exec"):
                raise CallError(f"this guest has {MOST_PROCESSES} programs already")
            getattr(self, "call_" + call.pop("op"))(stream, **call)
        except (
            CallError,
            protocol.ProtocolError,
            OSError,
            AttributeError,
            LookupError,
            TypeError,
            ValueError,
            subprocess.SubprocessError,
        ) as error:
            self._reply(stream, error=f"{error}" if isinstance(error, CallError) else f"guest agent: {error!r}")

    def _reply(self, stream: int, **content: object) -> None:
        content.setdefault("ok", "error" not in content)
        self._send(protocol.message(protocol.REPLY, stream, content))

    # --- children

    def _spawn(self, argv: list[str], done: Callable[[int], None], **stdio: int) -> None:
        """Start a child; `done` is called with its exit code when it has ended."""
        stdio = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL} | stdio
        write(OUT_OF_MEMORY, "0")  # else what it starts would be as safe from the kernel as the agent is
        child = subprocess.Popen(argv, env=ENVIRONMENT, **stdio)
        write(OUT_OF_MEMORY, NEVER)
        self.children[child.pid] = done
        child.returncode = 0  # it is reaped here, never by subprocess

    def _reap(self, wake: int) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(wake, 4096)
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if not pid:
                break
            code = os.waitstatus_to_exitcode(status)
            code = 128 - code if code < 0 else code
            if pid in self.children:
                self.children.pop(pid)(code)
                continue
            process = next((p for p in self.processes.values() if p.pid == pid and p.exit_code is None), None)
            if process:
                self._ended(process, code)
            elif self.children:
                self.orphans[pid] = code
        if not self.children:
            self.orphans.clear()

    def _crun(self, verb: str, arguments: list[str], done: Callable[[str | None], None], **stdio: int) -> None:
        """Run crun; `done` gets None, or what went wrong in crun's own words."""
        self.counter += 1
        log = RUN / f"crun-{self.counter}.log"

        def finished(code: int) -> None:
            error = None if code == 0 else last_error(log) or f"crun {verb} ended with {code}"
            log.unlink(missing_ok=True)
            done(error)

        argv = [self.program, "--log", str(log), "--log-format", "json", verb, *arguments]
        self._spawn(argv, finished, **stdio)

    def _crun_program(
        self, process: Process, verb: str, arguments: list[str], done: Callable[[str | None], None]
    ) -> None:
        """Run ``crun create`` or ``crun exec --detach`` for `process`, and learn the PID it gets."""
        self.counter += 1
        pid_file = RUN / f"{self.counter}.pid"
        stdio, ours, theirs = {}, [], []
        if process.terminal:
            console, console_path = socket.socket(socket.AF_UNIX), RUN / f"console-{self.counter}"
            console.bind(str(console_path))
            console.listen(1)
            arguments = ["--console-socket", str(console_path), *arguments]
        else:
            inside, process.stdin = os.pipe2(os.O_CLOEXEC)
            out, out_inside = os.pipe2(os.O_CLOEXEC)
            err, err_inside = os.pipe2(os.O_CLOEXEC)
            process.outputs = {out: protocol.STDOUT, err: protocol.STDERR}
            ours, theirs = [process.stdin, out, err], [inside, out_inside, err_inside]
            stdio = {"stdin": inside, "stdout": out_inside, "stderr": err_inside}

        def finished(error: str | None) -> None:
            if process.terminal:
                console_path.unlink()
                with console:
                    if error is None:
                        self._take_terminal(process, console)
            if error is None:
                process.pid = int(pid_file.read_text())
                if process.pid in self.orphans:
                    self._ended(process, self.orphans.pop(process.pid))
            else:
                self._close(process)
            pid_file.unlink(missing_ok=True)
            done(error)

        self._crun(verb, ["--pid-file", str(pid_file), *arguments], finished, **stdio)
        for fd in theirs:
            os.close(fd)
        for fd in ours:
            os.set_blocking(fd, False)

    def _take_terminal(self, process: Process, listener: socket.socket) -> None:
        """Take the terminal that crun has sent."""
        connection, _address = listener.accept()
        with connection:
            _data, ancillary, _flags, _from = connection.recvmsg(4096, socket.CMSG_SPACE(4))
        process.stdin = array.array("i", ancillary[0][2][:4])[0]
        os.set_blocking(process.stdin, False)
        process.outputs = {process.stdin: protocol.STDOUT}
        self._watch_outputs(process)

    # --- input and output

    def _write_input(self, process: Process) -> None:
        if process.stdin is None:
            return
        written = 0
        try:
            while process.input:
                count = os.write(process.stdin, process.input[:65536])
                del process.input[:count]
                written += count
        except BlockingIOError:
            pass
        except OSError:  # the program has closed its input
            written += len(process.input)
            process.input.clear()
            process.input_ended = True
        if written and process.stream is not None:
            self._send(protocol.credit(process.stream, written))
        if process.terminal:
            if process.input and process.stdin in self.selector.get_map():  # full: try again when it has been read
                self.selector.modify(process.stdin, selectors.EVENT_READ | selectors.EVENT_WRITE, self._io(process))
            return
        if process.input:
            if process.stdin not in self.selector.get_map():
                self._watch(process.stdin, selectors.EVENT_WRITE, lambda _: self._write_input(process))
            return
        self._forget(process.stdin)
        if process.input_ended:
            os.close(process.stdin)
            process.stdin = None

    def _io(self, process: Process) -> Callable[[int], None]:
        def ready(events: int) -> None:
            if events & selectors.EVENT_WRITE:
                self.selector.modify(process.stdin, selectors.EVENT_READ, self._io(process))
                self._write_input(process)
            if events & selectors.EVENT_READ:
                self._read_output(process, process.stdin)

        return ready

    def _watch_outputs(self, process: Process) -> None:
        """Read the outputs of `process` exactly while somebody takes them (or nobody ever will)."""
        wanted = process.listening and (process.stream is None or process.window > 0)
        watched = self.selector.get_map()
        for fd in list(process.outputs):
            if wanted and fd not in watched:
                handler = self._io(process) if process.terminal else lambda _, fd=fd: self._read_output(process, fd)
                self._watch(fd, selectors.EVENT_READ, handler)
            elif not wanted and fd in watched:
                self._forget(fd)
        if process.exit_code is not None and process.listening:
            self._drain(process)

    def _read_output(self, process: Process, fd: int) -> bool:
        """Pass on one piece of output; False when there is none now."""
        try:
            data = os.read(fd, max(1, min(protocol.CHUNK, process.window)) if process.stream else protocol.CHUNK)
        except BlockingIOError:
            return False
        except OSError:  # a terminal whose last user has gone
            data = b""
        if not data:
            self._forget(fd)
            process.outputs.pop(fd)
            if fd != process.stdin:
                os.close(fd)
            return False
        if process.stream is not None:
            process.window -= len(data)
            self._send(protocol.frame(process.outputs[fd], process.stream, data))
            if process.window <= 0:
                self._watch_outputs(process)
        return True

    def _ended(self, process: Process, code: int) -> None:
        """The program has ended: write out what it wrote to files, then tell its output and its code."""
        process.out_of_memory = was_out_of_memory(process.container)

        def synced(_: int) -> None:
            process.exit_code = code
            self._watch_outputs(process)

        if process.spec is None:
            with contextlib.suppress(OSError):  # where it was not the first of its PID namespace, others may be left
                (CGROUPS / process.container / "cgroup.kill").write_text("1")
            self._spawn([BUSYBOX, "sync", "-f", "/run/volumes"], synced)  # "it has ended" must mean "it is written"
        else:
            synced(0)

    def _drain(self, process: Process) -> None:
        """Send what the ended program left in its pipes, then EXIT.

        A child that outlives it and holds a pipe open is not waited for, as in containerd.
        """
        for fd in list(process.outputs):
            while (process.stream is None or process.window > 0) and self._read_output(process, fd):
                pass
        if process.stream is not None and process.window <= 0 and process.outputs:
            return  # more when the reader has paid
        if process.stream is not None:
            end = {"code": process.exit_code, "out_of_memory": process.out_of_memory}
            self._send(protocol.message(protocol.EXIT, process.stream, end))
            self.streams.pop(process.stream, None)
            process.stream = None
        self._close(process)
        if process.spec is not None:
            self.processes.pop(process.key, None)

    def _close(self, process: Process) -> None:
        for fd in {*process.outputs, process.stdin} - {None}:
            self._forget(fd)
            os.close(fd)
        process.outputs, process.stdin = {}, None

    def _signal(self, process: Process, number: int) -> None:
        if process.pid is not None and process.exit_code is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, number)

    # --- the calls

    def _container(self, container: str) -> Process:
        try:
            return self.processes[container]
        except KeyError:
            raise CallError(f"no container {container} in this guest") from None

    def call_ping(self, stream: int) -> None:
        self._reply(stream, guest_kernel=os.uname().release)

    def call_configure(
        self,
        stream: int,
        *,
        seed: str,
        time_ns: int,
        hostname: str,
        machine_id: str,
        interface: dict,
        sysctl: dict[str, str],
        shares: dict[str, str],
    ) -> None:
        """Make this guest a pod's own: nothing of the template it may come from may be seen by a workload.

        seed: random bytes of the host, as hex; time_ns: the host's clock; interface: mac, mtu, addresses
        (with prefix), routes (dst, gateway, scope); shares: mount tag -> cache mode, mounted at /run/<tag>.
        """
        reseed(bytes.fromhex(seed))
        time.clock_settime_ns(time.CLOCK_REALTIME, time_ns)
        socket.sethostname(hostname)
        write("/etc/machine-id", machine_id + "\n")
        for name, value in sysctl.items():
            write("/proc/sys/" + name.replace(".", "/"), value)
        # The engine gives the addresses: a neighbour's advertisement must not add any.
        write("/proc/sys/net/ipv6/conf/eth0/accept_ra", "0")
        network.configure(interface)
        self._reply(stream, guest_kernel=os.uname().release)
        self._mount(shares)

    def _mount(self, shares: dict[str, str]) -> None:
        """Mount what containers will need, while the host makes ready the first of them.

        A guest that cannot is none: it ends, and the pod fails with what it printed.
        """
        try:
            for tag, cache in shares.items():
                Path("/run", tag).mkdir()
                mount("9p", tag, f"/run/{tag}", f"trans=virtio,version=9p2000.L,msize=262144,cache={cache}")
            DISK.mkdir()
            mount("ext4", self.disk, str(DISK), "noinit_itable,discard", MS_NOATIME)
        except OSError as error:
            raise SystemExit(f"casemate: {error}") from None

    def call_clock(self, stream: int, *, time_ns: int) -> None:
        """Bring the clock to the host's, `time_ns`: gently, or at once where it is far off (the host slept)."""
        offset = time_ns - time.time_ns()
        if abs(offset) > STEP_CLOCK_NS:
            time.clock_settime_ns(time.CLOCK_REALTIME, time_ns)
        else:
            seconds, nanoseconds = divmod(offset, 1_000_000_000)
            LIBC.adjtime(struct.pack("ll", seconds, nanoseconds // 1000), None)
        self._reply(stream)

    def call_create(self, stream: int, *, id: str, spec: dict, processes_of: str | None) -> None:
        """processes_of: a container's id, or "pod": whose PID namespace the new container joins; None: its own."""
        if id in self.processes:
            raise CallError(f"container {id} is already in this guest")
        if processes_of:
            first = self._pod_init() if processes_of == "pod" else self._container(processes_of).pid
            if first is None:
                raise CallError(f"container {processes_of}, whose processes {id} is to share, is not there yet")
            next(n for n in spec["linux"]["namespaces"] if n["type"] == "pid")["path"] = f"/proc/{first}/ns/pid"
        make_root(id)
        config, terminal = json.dumps(spec).encode(), bool(spec["process"].get("terminal"))
        process = None if terminal or len(config) > PIPE_BYTES else self._let_first_be(id, config)
        if process is None:
            self._forget_first()
            process = Process(id, id, terminal)
            bundle = RUN / "bundles" / id
            bundle.mkdir(parents=True)
            (bundle / "config.json").write_bytes(config)
            self._crun_program(process, "create", ["--bundle", str(bundle), id], lambda e: self._created(process, e))
        self.processes[id] = self.creators[stream] = process
        self._reply(stream)  # the host goes on: what it does next takes about as long

    def _created(self, process: Process, error: str | None) -> None:
        if error:
            process.start_result = {"error": error}
        if self.first and self.first[0] is process:  # it has ended before its time
            self._forget_first()
        waiting, process.when_created = process.when_created, None
        for action in waiting:
            action()

    def start_first(self) -> None:
        """Start the ``crun create`` of the first container, which waits for its config.json: here that is a pipe.

        A template is saved with it, so that a guest's first container need not wait until crun and its libraries have
        been loaded: a third of its time.
        """
        process = Process(FIRST, FIRST, terminal=False)
        bundle = RUN / "bundles" / FIRST
        bundle.mkdir(parents=True)
        os.mkfifo(bundle / "config.json")
        self._crun_program(process, "create", ["--bundle", str(bundle), FIRST], lambda e: self._created(process, e))
        deadline = time.monotonic() + FIRST_WITHIN_S
        while self.first is None and time.monotonic() < deadline:
            with contextlib.suppress(OSError):  # nobody reads yet
                self.first = process, os.open(bundle / "config.json", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            time.sleep(0.01)

    def _forget_first(self) -> None:
        """Have the ``crun create`` that waits end, over a configuration with nothing in it."""
        if self.first:
            os.close(self.first[1])
            self.first = None

    def _let_first_be(self, container: str, config: bytes) -> Process | None:
        """Have the ``crun create`` that waits create `container`; None where none waits."""
        if self.first is None:
            return None
        process, pipe = self.first
        # crun reads it twice. The second time it finds this file.
        file = RUN / "bundles" / FIRST / "config.json"
        new = file.with_suffix(".new")
        new.write_bytes(config)
        new.replace(file)
        try:
            os.write(pipe, config)
        except BrokenPipeError:  # it has just ended
            return None
        os.close(pipe)
        self.first = None
        process.key = process.container = container
        return process

    def _pod_init(self) -> int:
        """Return the first process of the PID namespace that the pod's containers share; it reaps what they leave."""
        if self.pod_init is None:
            own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
            try:
                if LIBC.unshare(CLONE_NEWPID):
                    raise OSError(ctypes.get_errno(), "cannot make a PID namespace")
                # It waits for ever, for a pipe that nobody writes to, and the kernel reaps for whom ignores SIGCHLD.
                self.pod_init = subprocess.Popen(
                    [BUSYBOX, "cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env=ENVIRONMENT,
                    preexec_fn=lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN),
                )  # fmt: skip
                self.pod_init.returncode = 0  # it is reaped in _reap
            finally:
                LIBC.setns(own, CLONE_NEWPID)
                os.close(own)
        return self.pod_init.pid

    def call_exec(self, stream: int, *, id: str, process: dict) -> None:
        self._container(id)
        self.counter += 1
        key = f"{id}/{self.counter}"
        program = self.processes[key] = self.callers[stream] = Process(key, id, bool(process.get("terminal")), process)
        file = RUN / f"process-{self.counter}.json"
        file.write_text(json.dumps(process))

        def executed(error: str | None) -> None:
            file.unlink()
            if error:
                self.processes.pop(key)
                self.callers.pop(stream, None)
                self._reply(stream, error=error)
                return
            if stream not in self.callers:  # gone before the program ran
                self._signal(program, signal.SIGKILL)
                self._watch_outputs(program)
            self._reply(stream, key=key)

        name = self._container(id).name
        self._crun_program(program, "exec", ["--detach", "--process", str(file), name], executed)

    def call_attach(self, stream: int, *, key: str) -> None:
        process = self._container(key)
        if process.stream is not None or process.listening:
            raise CallError(f"{key} already has its listener")
        process.stream = stream
        self.streams[stream] = process
        for caller in [caller for caller, called in self.callers.items() if called is process]:
            self.callers.pop(caller)

        process.start_waiters.append(stream)
        self._start(process)

    def call_started(self, stream: int, *, id: str) -> None:
        if "/" in id and id not in self.processes:  # an exec that was attached to, and has ended since
            self._reply(stream)
            return
        process = self._container(id)
        process.start_waiters.append(stream)
        self._start(process)

    def _start(self, process: Process) -> None:
        """Start a container's program, once; an exec's runs already. Who waits learns of it when it is attached to."""

        if process.spec is None and not process.starting:
            process.starting = True
            if process.when_created is not None:
                process.when_created.append(lambda: self._let_run(process))
            else:
                self._let_run(process)
        self._tell_started(process)

    def _let_run(self, process: Process) -> None:
        """Let a created container's program run.

        The container waits at a pipe for that (crun 1.8 to 1.21), and ``crun start`` is a slow way to write a byte.
        """

        def started(error: str | None) -> None:
            process.start_result = {"error": error} if error else {}
            self._tell_started(process)

        if process.start_result is None:
            try:
                pipe = CRUN_STATE / process.name / "exec.fifo"
                end = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
                pipe.unlink()
                os.write(end, bytes(1))
                os.close(end)
                process.start_result = {}
            except OSError:  # crun knows why
                self._crun("start", [process.name], started)
        self._tell_started(process)

    def _tell_started(self, process: Process) -> None:
        if process.start_result is None or (process.stream is None and not process.listening):
            return
        for waiter in process.start_waiters:
            self._reply(waiter, **process.start_result)
        process.start_waiters = []
        process.listening = True
        self._watch_outputs(process)

    def call_delete(self, stream: int, *, id: str) -> None:
        process = self.processes.get(id)
        if process and process.when_created is not None:
            process.when_created.append(lambda: self.call_delete(stream, id=id))
            return
        name = process.name if process else id

        def deleted(error: str | None) -> None:
            if error is None:
                self._remove_root(id)
                # The host may give the next root file system this one's device number, and the guest would take the
                # files of one for the other's: it must remember none.
                Path("/proc/sys/vm/drop_caches").write_text("2")
                remove(RUN / "bundles" / name)
                for key in [k for k, p in self.processes.items() if p.container == id]:
                    process = self.processes.pop(key)
                    process.exit_code = 255 if process.exit_code is None else process.exit_code
                    self._drain(process)
            self._reply(stream, **({"error": error} if error else {}))

        if process and process.pid is None:  # crun could not create it
            deleted(None)
        else:
            self._crun("delete", ["--force", name], deleted)

    def _remove_root(self, container: str) -> None:
        """Unmount a container's root file system and free its blocks, which takes a while for many files."""
        LIBC.umount2(os.fsencode(DISK / container / "root"), MNT_DETACH)
        self._spawn([BUSYBOX, "rm", "-rf", str(DISK / container)], lambda _: None)

    def call_pause(self, stream: int, *, id: str) -> None:
        self._crun(
            "pause",
            [self._container(id).name],
            lambda error: self._reply(stream, **({"error": error} if error else {})),
        )

    def call_resume(self, stream: int, *, id: str) -> None:
        self._crun(
            "resume",
            [self._container(id).name],
            lambda error: self._reply(stream, **({"error": error} if error else {})),
        )

    def call_signal(self, stream: int, *, id: str, number: int) -> None:
        self._signal(self._container(id), number)
        self._reply(stream)

    def call_dial(self, stream: int, *, port: int) -> None:
        if len(self.dials) >= MOST_DIALS:
            raise CallError(f"{MOST_DIALS} connections are forwarded to this guest already")
        self.dials[stream] = Dial(self, stream, port, lambda: self.dials.pop(stream, None))
        self.dials[stream].start()

    def call_update(self, stream: int, *, id: str, resources: dict) -> None:
        file = RUN / f"resources-{id}.json"
        file.write_text(json.dumps(resources))

        def updated(error: str | None) -> None:
            file.unlink()
            self._reply(stream, **({"error": error} if error else {}))

        self._crun("update", ["--resources", str(file), self._container(id).name], updated)

    def call_stats(self, stream: int) -> None:
        """Reply with ``guest``: memory_bytes, available_bytes; and ``containers``, by id: see `use_of`."""
        containers = {}
        for group in Path("/sys/fs/cgroup/pod").glob("*/"):
            with contextlib.suppress(OSError):  # it is being deleted
                containers[group.name] = use_of(group)
        memory = numbers(Path("/proc/meminfo").read_text().replace(":", ""))
        guest = {"memory_bytes": memory["MemTotal"] * 1024, "available_bytes": memory["MemAvailable"] * 1024}
        self._reply(stream, guest=guest, containers=containers)


def use_of(group: Path) -> dict[str, int]:
    """Return what a control group has used of the processors, and what it holds of memory and processes.

    working_set_bytes is the memory without the part of the page cache that nobody has asked for lately. There are no
    figures of input and output: the containers' files are the host's, and no block device is read for them.
    """
    memory = int((group / "memory.current").read_text())
    return {
        "cpu_ns": numbers((group / "cpu.stat").read_text())["usage_usec"] * 1000,
        "memory_bytes": memory,
        "working_set_bytes": max(0, memory - numbers((group / "memory.stat").read_text())["inactive_file"]),
        "processes": int((group / "pids.current").read_text()),
    }


def numbers(text: str) -> dict[str, int]:
    """Read lines of a name, a number and perhaps a unit."""
    return {line.split()[0]: int(line.split()[1]) for line in text.splitlines()}


def reseed(seed: bytes) -> None:
    """Feed the kernel's random pool and make it use what it was fed, now."""
    with open("/dev/urandom", "wb") as device:
        fcntl.ioctl(device, RNDADDENTROPY, struct.pack("ii", len(seed) * 8, len(seed)) + seed)
        fcntl.ioctl(device, RNDRESEEDCRNG)


def was_out_of_memory(container: str) -> bool:
    """Tell whether the kernel has killed a process of this container for want of memory."""
    with contextlib.suppress(OSError):
        return "\noom_kill 0\n" not in (CGROUPS / container / "memory.events").read_text()
    return False


def last_error(log: Path) -> str | None:
    """Return the last error in crun's JSON log."""
    with contextlib.suppress(OSError, ValueError):
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        return next((line["msg"] for line in reversed(lines) if line.get("level") in ("error", "fatal")), None)
    return None


def mount(kind: str, source: str, target: str, options: str = "", flags: int = 0) -> None:
    """Mount a file system by mount(2): a program for it costs some 0.1 s where the processor is emulated."""
    if LIBC.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode()):
        code = ctypes.get_errno()
        raise OSError(code, f"cannot mount {source} at {target}: {os.strerror(code)}")


def sealed_copy(program: str) -> str:
    """Copy `program` to memory, where nobody can change it, and return the path to start it by.

    crun makes such a copy at each start, lest a container should write to it, unless it already runs from one.
    """
    copy = os.memfd_create(program, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(copy, Path(program).read_bytes())
    os.fchmod(copy, 0o700)
    fcntl.fcntl(copy, fcntl.F_ADD_SEALS, SEALS)
    # A file that is open for writing cannot be started.
    reading = os.open(f"/proc/self/fd/{copy}", os.O_RDONLY | os.O_CLOEXEC)
    os.close(copy)
    return f"/proc/{os.getpid()}/fd/{reading}"


def make_root(container: str) -> None:
    """Give a container its root file system: the image's files, from the host, below what it will write, on the disk.

    The host's share is read-only and only read, so what a container writes is as fast as the disk, has the semantics
    of a local file system, and is bounded by the disk's size.
    """
    lower, place = SHARE / container, DISK / container
    upper, work, root = (place / name for name in ("upper", "work", "root"))
    for directory in (place, upper, work, root):
        directory.mkdir()
    found = lower.stat()  # the root directory's owner and mode are the upper one's
    os.chown(upper, found.st_uid, found.st_gid)
    upper.chmod(found.st_mode & 0o7777)
    mount("overlay", "overlay", str(root), f"lowerdir={lower},upperdir={upper},workdir={work}")


def write(path: str, text: str) -> None:
    """Write a small file that is there, with less code than Python's own way: new code is slow in a new guest."""
    file = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
    try:
        os.write(file, text.encode())
    finally:
        os.close(file)


def remove(bundle: Path) -> None:
    """Remove a bundle: a directory with one file."""
    with contextlib.suppress(FileNotFoundError):
        (bundle / "config.json").unlink(missing_ok=True)
        bundle.rmdir()


def prepare_guest() -> None:
    """Mount what a container engine expects."""
    for kind, target, options in (
        ("tmpfs", "/run", "mode=0755"),
        ("tmpfs", "/tmp", "mode=1777"),
        ("devpts", "/dev/pts", "newinstance,ptmxmode=0666,mode=0620"),
        ("tmpfs", "/dev/shm", "mode=1777,size=64m"),  # what engines give a pod
        ("mqueue", "/dev/mqueue", ""),
        ("cgroup2", "/sys/fs/cgroup", ""),
    ):
        Path(target).mkdir(parents=True, exist_ok=True)
        mount(kind, kind, target, options)
    RUN.mkdir(mode=0o700)
    Path("/etc/machine-id").touch()  # in the overlay now, which takes time when a pod starts
    write(OUT_OF_MEMORY, NEVER)
    resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, OPEN_FILES))


def block_device(serial: str) -> str:
    """Return the path of the disk to which QEMU gave this serial number (qemu.py)."""
    for entry in Path("/sys/block").glob("vd*"):
        if (entry / "serial").read_text().strip() == serial:
            return f"/dev/{entry.name}"
    raise SystemExit(f"casemate: no disk {serial}")


def open_port() -> int:
    """Open the virtio-serial port that leads to the host."""
    for entry in Path("/sys/class/virtio-ports").iterdir():
        if (entry / "name").read_text().strip() == PORT_NAME:
            return os.open(f"/dev/{entry.name}", os.O_RDWR | os.O_CLOEXEC)
    raise SystemExit("casemate: no port to the host")


if __name__ == "__main__":
    prepare_guest()
    agent = Agent(open_port(), block_device("disk"))
    agent.start_first()
    agent.serve()
