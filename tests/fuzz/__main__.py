"""Fuzzes both ends of the protocol between host and guest: `python -m tests.fuzz host|agent [options of libFuzzer]`.

It ends with 0 when nothing was found. What is found is printed, and the input kept in a file that is named then.
"""

import contextlib
import os
import signal
import socket
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["appliance.node.microvm", "protocol"]):
    from appliance.node.microvm import boot, protocol, sandboxes, standin, supervisor
    from appliance.node.microvm.settings import RuntimeFailure

    # the agent finds its neighbours beside itself, as in the guest
    sys.path.insert(0, str(Path(protocol.__file__).parent))
    from appliance.node.microvm.guest import agent

NOBODY = 65534
# Calls and what they take; not dial, which would connect to ports of this machine.
OPS = {
    "ping": "", "create": "id spec processes_of", "exec": "id process", "attach": "key", "started": "id",
    "delete": "id", "pause": "id", "resume": "id", "update": "id resources", "serve": "", "": "id",
}  # fmt: skip
SENSIBLE = {
    "id": "c", "key": "c", "spec": {"process": {}}, "process": {"terminal": False}, "processes_of": None,
    "resources": {},
}  # fmt: skip


def frames(data: atheris.FuzzedDataProvider) -> bytes:
    """Bytes that a hostile end sends: frames that are right in part, and noise."""
    sent = b""
    for _ in range(data.ConsumeIntInRange(0, 8)):
        shape = data.ConsumeIntInRange(0, 9)
        stream = data.ConsumeIntInRange(0, 3)
        if shape == 0:
            sent += data.ConsumeBytes(data.ConsumeIntInRange(0, 40))
        elif shape == 1:
            sent += protocol.frame(data.ConsumeIntInRange(0, 11), stream, data.ConsumeBytes(12))
        elif shape == 2:
            sent += protocol.HEADER.pack(data.ConsumeIntInRange(0, 255), stream, data.ConsumeInt(4) & 0xFFFFFFFF)
        elif shape == 3:
            sent += protocol.message(protocol.EXIT, stream, {"code": value(data), "out_of_memory": value(data)})
        elif shape == 4:
            sent += protocol.message(protocol.REPLY, stream, {"ok": value(data), "error": value(data)})
        else:
            op = data.PickValueInList(list(OPS))
            arguments = {name: SENSIBLE[name] for name in OPS[op].split()}
            if data.ConsumeBool():
                wrong = data.PickValueInList([*SENSIBLE, "more", "version"])
                arguments[wrong] = value(data)
            sent += protocol.message(protocol.CALL, stream, {"version": 1, "op": op} | arguments)
    return sent


def value(data: atheris.FuzzedDataProvider) -> object:
    kind = data.ConsumeIntInRange(0, 7)
    if kind == 0:
        return data.ConsumeInt(4)
    if kind == 1:
        return data.ConsumeUnicodeNoSurrogates(12)
    if kind == 2:
        return {"terminal": data.ConsumeBool(), "process": {"terminal": False}}
    return [True, False, None, "c", "c/1"][kind - 3]


def host(raw: bytes) -> None:
    """A hostile guest against the supervisor's router, a call of the runtime and a stand-in."""
    data = atheris.FuzzedDataProvider(raw)
    sent = frames(data)
    _router(sent, frames(data))
    reply = _through(sent, lambda link: _call(link))
    assert reply is None or reply["ok"] is True, reply
    code = _through(sent, lambda link: _stand_in(link))
    assert type(code) is int and 0 <= code <= 255, code
    assert code != 0 or b'"code": 0' in sent, "a success that nobody reported"


def _router(from_guest: bytes, from_client: bytes) -> None:
    theirs, port = socket.socketpair()
    console, console_end = os.pipe2(os.O_NONBLOCK)
    listener, ports = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
    for one in (listener, ports):
        one.bind("")  # an abstract name of the kernel's choice
        one.listen()
    with theirs, port, listener, ports, socket.socket(socket.AF_UNIX) as client:
        router = supervisor.Router(boot.Guest(None, port, port, console), listener, ports)
        client.connect(listener.getsockname())
        router._accept(0)
        client.sendall(from_client)
        theirs.sendall(from_guest)
        try:
            for _ in range(3):
                for key, events in router.selector.select(0):
                    key.data(events)
        except supervisor._GuestEnded:
            pass
        assert len(router.outgoing) <= supervisor.MOST_QUEUED + protocol.MAX_MESSAGE
        for one in router.clients.values():
            one.connection.close()
        router.selector.close()
    os.close(console)
    os.close(console_end)


def _through(sent: bytes, action):
    """Run `action` with a connection on which `sent` waits, and then the end."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(sent)
        theirs.shutdown(socket.SHUT_WR)
        return action(ours)


def _call(link: socket.socket) -> dict | None:
    sandbox = sandboxes.Sandbox("fuzzed")
    sandbox._connect = lambda other: os.dup2(link.fileno(), other.fileno())
    with contextlib.suppress(RuntimeFailure):
        return sandbox.call("ping", timeout_s=5)
    return None


def _stand_in(link: socket.socket) -> int:
    wake, wake_end = os.pipe2(os.O_NONBLOCK)
    try:
        return standin._carry(link, wake, terminal=False)
    except (protocol.ProtocolError, OSError):
        return standin.GUEST_LOST
    finally:
        os.close(wake)
        os.close(wake_end)


class Agent(agent.Agent):
    """The agent without its effects: no program is started, this machine gets no other identity."""

    def _spawn(self, argv, done, **stdio):
        well = argv[-1] == "c" and "--console-socket" not in argv
        if well and "--pid-file" in argv:
            Path(argv[argv.index("--pid-file") + 1]).write_text("999999999")
        done(0 if well else 1)

    def call_configure(self, stream, **arguments):
        self._reply(stream)


def guest(raw: bytes) -> None:
    """A hostile client against the agent: it lives, answers the next call, or ends itself for want of frames."""
    open_before = len(os.listdir("/proc/self/fd"))
    ours, theirs = socket.socketpair()
    with ours, theirs:
        os.set_blocking(ours.fileno(), False)
        tested = Agent(theirs.fileno(), disk="")
        try:
            ours.sendall(frames(atheris.FuzzedDataProvider(raw)))
            _turn(tested)
            inside_a_frame = bool(tested.decoder._buffer)  # whose rest the call then is, in part or whole
            ours.sendall(protocol.call(77, "ping"))
            _turn(tested)
            answer, decoder = b"", protocol.Decoder(protocol.FROM_GUEST)
            with contextlib.suppress(BlockingIOError):
                answer = ours.recv(1 << 20)
            found = [stream for kind, stream, _ in decoder.feed(answer) if kind == protocol.REPLY]
            assert 77 in found or inside_a_frame, "the agent is deaf"
        except agent.protocol.ProtocolError:
            pass  # PID 1 ends then, and with it the guest
        finally:
            for process in tested.processes.values():
                tested._close(process)
            wake_read = next(fd for fd in tested.selector.get_map() if fd != theirs.fileno())
            os.close(wake_read)
            os.close(signal.set_wakeup_fd(-1))
            tested.selector.close()
    assert len(os.listdir("/proc/self/fd")) == open_before, "the agent forgot to close something"


def _turn(tested: Agent) -> None:
    for _ in range(3):
        for key, events in tested.selector.select(0):
            key.data(events)


def main() -> None:
    target = {"host": host, "agent": guest}[sys.argv[1]]
    work = tempfile.mkdtemp()
    agent.RUN = Path(work)
    (agent.RUN / "bundles").mkdir()
    agent.sealed_copy = lambda program: program  # crun, which no call of these tests starts
    agent.traceback.print_exc = _only_expected
    standin._run_out_of_memory = lambda: None
    standin.print = standin._write = lambda *_, **__: None
    os.chmod(work, 0o777)
    os.chmod(agent.RUN / "bundles", 0o777)
    # Whatever a mistake of this program leads to, it does it as nobody.
    with contextlib.suppress(PermissionError):
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    atheris.Setup([sys.argv[0], f"-artifact_prefix={work}/", "-max_len=400", "-len_control=0", *sys.argv[2:]], target)
    atheris.Fuzz()


def _only_expected() -> None:
    """In place of the agent's report of an exception that it survived."""
    error = sys.exc_info()[1]
    assert isinstance(error, (OSError, ValueError)), repr(error)


if __name__ == "__main__":
    main()
