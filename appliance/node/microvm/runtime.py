"""The OCI runtime: called by the engine's shim as runc would be, it turns pods into guests and leaves the rest to runc.

`create` rewrites the bundle's config.json and lets runc create what it then says; `start` waits until the guest, or
the program in it, runs; `delete` takes down what was shown to the guest. Everything else is runc's own.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

TYPE_CHECKING = False  # as typing's, which is not imported: `state` and `kill` are called often and must be quick
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from .sandboxes import Sandbox

RUNC = "runc"

GLOBAL_WITH_VALUE = {"--root", "--log", "--log-format", "--criu", "--rootless"}
VERB_WITH_VALUE = {
    "--bundle", "-b", "--pid-file", "--console-socket", "--preserve-fds", "--process", "-p", "--resources", "-r",
    "--format", "-f", "--interval",
}  # fmt: skip
STOP = {"19", "SIGSTOP", "STOP"}
REFUSED = {"checkpoint", "restore", "run"}


class Call:
    """One invocation, taken apart: `runc GLOBAL... VERB OPTION... ID REST...`."""

    def __init__(self, argv: list[str]):
        self.argv = argv
        self.globals: dict[str, str] = {}
        self.options: dict[str, str] = {}
        self.verb, self.id = "", ""
        position = self._take(argv, 0, GLOBAL_WITH_VALUE, self.globals)
        if position < len(argv):
            self.verb = argv[position]
            position = self._take(argv, position + 1, VERB_WITH_VALUE, self.options)
        if position < len(argv):
            self.id = argv[position]
        self.rest = argv[position + 1 :]

    @staticmethod
    def _take(argv: list[str], position: int, with_value: set[str], into: dict[str, str]) -> int:
        while position < len(argv) and argv[position].startswith("-") and argv[position] != "-":
            name, equals, value = argv[position].partition("=")
            if not equals and name in with_value and position + 1 < len(argv):
                position += 1
                value = argv[position]
            into[name] = value
            position += 1
        return position

    def option(self, *names: str) -> str | None:
        return next((self.options[name] for name in names if name in self.options), None)


def main(argv: list[str]) -> int:
    """Do what `argv` says; return the exit code. Verbs that are runc's alone never return."""
    call = Call(argv)
    ours = {
        "create": create, "start": start, "delete": delete, "exec": execute,
        "pause": pause, "resume": resume, "update": update, "kill": stop if STOP & set(call.rest) else None,
    }.get(call.verb)  # fmt: skip
    if ours is None and call.verb not in REFUSED:
        os.execvp(RUNC, [RUNC, *argv])  # noqa: S606 (an argument list, no shell)
    from .settings import RuntimeFailure

    try:
        if ours is None:
            raise RuntimeFailure(f"{call.verb} is not there for microVMs: use the runtime runc")
        from .sandboxes import checked

        checked(call.id)
        return ours(call)
    except (RuntimeFailure, OSError, ValueError, KeyError) as error:
        text = str(error) if isinstance(error, RuntimeFailure | OSError) else f"{call.verb}: {error!r}"
        _say(call, text)
        return 1


def create(call: Call) -> int:
    """Rewrite the bundle's config.json, then let runc create the jail or the stand-in."""
    from . import spec as specs
    from .sandboxes import Sandbox

    bundle = Path(call.option("--bundle", "-b") or ".")
    config = json.loads((bundle / "config.json").read_text())
    what, sandbox_id = specs.kind(config)
    sandbox = Sandbox(sandbox_id)
    _let_its_release(call, sandbox)
    if what == "sandbox":
        return _create_sandbox(call, bundle, config, sandbox)
    return _create_container(call, bundle, config, sandbox)


def _create_sandbox(call: Call, bundle: Path, config: dict, sandbox: Sandbox) -> int:
    from . import network, orders
    from . import spec as specs

    namespace = specs.check_sandbox(config)
    plan = orders.plan(config)
    try:
        sandbox.make(_runc_state(call), plan.image.disk)
        sandbox.netns.write_text(namespace)
        sandbox.made_of.write_text(plan.made_of)
        (sandbox.cgroups / call.id).write_text(config["linux"].get("cgroupsPath") or "")
        if plan.template:
            sandbox.template.symlink_to(plan.template.directory)
        _replace(bundle, plan.jail(config, sandbox, _argv("_supervise")))
        listener = network.listen(namespace)

        def connect() -> None:
            interface = network.connect(namespace, sandbox.uid, listener.getsockname()[1])
            (sandbox.ctl / "orders.json").write_text(json.dumps(plan.orders(config, interface)))
            os.chown(sandbox.ctl / "orders.json", sandbox.uid, sandbox.uid)

        try:
            code = _runc(_with_option(call, "--preserve-fds=1"), listener, meanwhile=connect)
        except BaseException:
            subprocess.run([RUNC, *_globals(call), "delete", "--force", call.id], capture_output=True)
            raise
    except BaseException:
        sandbox.remove()
        raise
    if code:
        sandbox.remove()
    return code


def _create_container(call: Call, bundle: Path, config: dict, sandbox: Sandbox) -> int:
    from . import jail as jails
    from . import protocol
    from . import spec as specs
    from .sandboxes import export_name
    from .settings import RuntimeFailure

    info = sandbox.info()  # says so when the pod's guest is not there
    if _known(call):  # before anything of its present owner is touched
        raise RuntimeFailure(f"container with id {call.id} exists already")
    guest_spec, volumes = specs.in_guest(config, call.id, export_name)
    specs.resources_in_guest(config["linux"].get("resources") or {}, info["memory_mib"])
    processes_of = _processes_of(call, config, sandbox)
    rootfs = Path(config["root"]["path"])
    arguments = [call.id, *(["--terminal"] if config["process"].get("terminal") else [])]
    stand_in = jails.stand_in(
        config, root=str(sandbox.root), state=str(sandbox.directory), uid=sandbox.uid,
        argv=_argv("_stand-in", *arguments), counts_swap=_counts_swap(),
    )  # fmt: skip
    try:
        sandbox.show(call.id, str(rootfs if rootfs.is_absolute() else bundle / rootfs), volumes)
        (sandbox.cgroups / call.id).write_text(config["linux"].get("cgroupsPath") or "")
        _replace(bundle, stand_in)
        codes = []
        link, _ = sandbox.ask(
            "create", meanwhile=lambda: codes.append(_runc(call.argv)),
            id=call.id, spec=guest_spec, processes_of=processes_of,
        )  # fmt: skip
        code = codes[0]
        with link:  # closed without the word that our half is done, as by SIGKILL, it takes the guest's half away
            if code == 0:
                link.sendall(protocol.frame(protocol.STDIN, 0))
    except BaseException:
        subprocess.run([RUNC, *_globals(call), "delete", "--force", call.id], capture_output=True)
        _remove_container(sandbox, call.id)
        raise
    if code:
        _remove_container(sandbox, call.id)
    return code


def _counts_swap() -> bool:
    """Tell whether a limit of swap can be set here; on cgroup v2 runc sees to it."""
    version_1 = Path("/sys/fs/cgroup/memory")
    return not version_1.is_dir() or (version_1 / "memory.memsw.limit_in_bytes").exists()


def _processes_of(call: Call, config: dict, sandbox: Sandbox) -> str | None:
    """Return whose processes a container is to share: "pod", the id of another of its containers, or None."""
    path = next(n.get("path") for n in config["linux"]["namespaces"] if n["type"] == "pid")
    if not path:
        return None
    wanted = Path(path).readlink()
    for container in sandbox.containers():
        if (state := _state(call, container)) and state["pid"]:
            with contextlib.suppress(OSError):
                if Path(f"/proc/{state['pid']}/ns/pid").readlink() == wanted:
                    return container
    return "pod"


def start(call: Call) -> int:
    """Start the jail or the stand-in, and wait until the guest answers or the program in it runs."""
    from .sandboxes import Sandbox, of_container, starting

    pod = of_container(call.id)
    sandbox = pod or Sandbox(call.id)
    _let_its_release(call, sandbox)
    if pod:
        # The program starts while its stand-in does: each takes some 50 ms.
        _wait_for_program(pod, call.id, 120, lambda: _stopped(call), meanwhile=lambda: _runc_or_exit(call.argv))
        return 0
    with starting():
        if (code := _runc(call.argv)) == 0:
            _wait_for_guest(call, sandbox)
    return code


def _wait_for_guest(call: Call, sandbox: Sandbox) -> None:
    from . import settings

    limit = settings.load().start_deadline_s + 5  # the supervisor itself gives up first
    deadline, look_at_jail = time.monotonic() + limit, time.monotonic() + 0.5
    while time.monotonic() < deadline:
        if sandbox.said("info.json"):
            _look_after_template(sandbox)
            return
        if failure := sandbox.said("failure"):
            raise settings.RuntimeFailure(f"the pod's guest did not start: {failure}")
        if time.monotonic() > look_at_jail:
            look_at_jail = time.monotonic() + 0.5
            if _stopped(call):
                raise settings.RuntimeFailure("the pod's guest did not start: its supervisor ended without a word")
        time.sleep(0.005)
    raise settings.RuntimeFailure(f"the pod's guest did not start within {limit} s")


def _wait_for_program(
    sandbox: Sandbox,
    key: str,
    limit_s: float,
    stand_in_ended: Callable[[], bool],
    meanwhile: Callable[[], None] = lambda: None,
) -> None:
    """Wait until the program `key` runs in the guest, or its stand-in has ended, which the engine sees by itself.

    `meanwhile` is done once the guest knows that the program is to run.
    """
    from .sandboxes import NoAnswer

    deadline = time.monotonic() + limit_s
    while True:
        try:
            sandbox.call("started", timeout_s=2, meanwhile=meanwhile, id=key)
            return
        except NoAnswer:
            if stand_in_ended():
                return
            if time.monotonic() > deadline:
                raise
        meanwhile = lambda: None  # noqa: E731


def _look_after_template(sandbox: Sandbox) -> None:
    """Have templates made where this guest missed one; it runs by now, so that takes nothing from its start."""
    from . import settings

    info = sandbox.info()
    if info["template_broken"]:
        (sandbox.template / "template.json").unlink(missing_ok=True)  # the next pod need not try it
    if info["template_failed"]:
        subprocess.run(["systemctl", "start", "--no-block", settings.PREPARE_UNIT], capture_output=True)


def delete(call: Call) -> int:
    """Delete the jail or the stand-in, then what was made for it here and in the guest.

    With --force the engine cleans up after its dead shim, and kills this program when it takes longer than 5 s;
    otherwise it asks again after 10 s.
    """
    from .sandboxes import Sandbox, of_container

    sandbox = of_container(call.id)
    _let_its_release(call, sandbox or Sandbox(call.id))
    code = _runc(call.argv)
    if sandbox is None:
        Sandbox(call.id).remove()
    elif not _known(call):
        _remove_container(sandbox, call.id, guest_answers_within_s=3 if {"--force", "-f"} & call.options.keys() else 8)
    return code


def execute(call: Call) -> int:
    """Run a process in a container in the guest, and its stand-in beside the container's own.

    The program runs in the guest first, so that one that is not there is an error of this call, in runc's own words.
    """
    import tempfile

    from . import jail as jails
    from . import spec as specs
    from .settings import RuntimeFailure

    sandbox = _sandbox_of(call)
    file = call.option("--process", "-p")
    if not file:
        raise RuntimeFailure("exec needs --process FILE, as engines call it; use the engine's own exec")
    process = json.loads(Path(file).read_text())
    link, reply = sandbox.ask("exec", id=call.id, process=specs.process_in_guest(process))
    with link, tempfile.NamedTemporaryFile("w", prefix="process-", dir=sandbox.directory) as rewritten:
        # Until its stand-in listens, the program lives no longer than this connection.
        argv = _argv("_stand-in", reply["key"], *(["--terminal"] if process.get("terminal") else []))
        json.dump(jails.stand_in_process(process, argv, sandbox.uid), rewritten)
        rewritten.flush()
        position = next(i for i, a in enumerate(call.argv) if file in (a, a.partition("=")[2]))
        name, equals, _ = call.argv[position].partition("=")
        argument = f"{name}={rewritten.name}" if equals else rewritten.name
        code = _runc([*call.argv[:position], argument, *call.argv[position + 1 :]])
        if code == 0:
            _wait_for_program(sandbox, reply["key"], 60, lambda: _exec_ended(call))
        return code


def pause(call: Call) -> int:
    """Freeze the container in the guest, then its stand-in."""
    _sandbox_of(call).call("pause", id=call.id)
    return _runc(call.argv)


def resume(call: Call) -> int:
    """Thaw the stand-in, then the container in the guest."""
    code = _runc(call.argv)
    _sandbox_of(call).call("resume", id=call.id)
    return code


def stop(call: Call) -> int:
    """Stop the program in the guest by SIGSTOP, the one signal that its stand-in, stopped by it, could not pass on."""
    _sandbox_of(call).call("signal", id=call.id, number=signal.SIGSTOP)
    return 0


def update(call: Call) -> int:
    """Change a container's limits: they are the guest's."""
    from . import spec as specs
    from .settings import RuntimeFailure

    source = call.option("--resources", "-r")
    if source is None:
        raise RuntimeFailure("update needs --resources FILE, as engines call it")
    text = sys.stdin.read() if source == "-" else Path(source).read_text()
    sandbox = _sandbox_of(call)
    resources = specs.resources_in_guest(json.loads(text), sandbox.info()["memory_mib"])
    sandbox.call("update", id=call.id, resources=resources)
    return 0


def _sandbox_of(call: Call) -> Sandbox:
    from .sandboxes import of_container
    from .settings import RuntimeFailure

    sandbox = of_container(call.id)
    if sandbox is None:
        raise RuntimeFailure(f"{call.id} is no container in a microVM; a pod's sandbox runs no programs of its own")
    _let_its_release(call, sandbox)
    return sandbox


def _let_its_release(call: Call, sandbox: Sandbox) -> None:
    """Let the release of these programs that made `sandbox`, if it is another one, do what is asked.

    Its supervisor and its agent are of that release until the pod ends, and speak that release's protocol.
    """
    from .sandboxes import RELEASE

    with contextlib.suppress(OSError):  # no link: a new sandbox
        release = sandbox.release.readlink()
        if release != RELEASE:
            launcher = str(release / "appliance/node/bin/casemate-microvm")
            os.execv(launcher, [launcher, *call.argv])  # noqa: S606 (no shell)


def _remove_container(sandbox: Sandbox, container: str, guest_answers_within_s: float = 8) -> None:
    from .settings import RuntimeFailure

    with contextlib.suppress(RuntimeFailure):  # no guest, no container in it
        sandbox.call("delete", id=container, timeout_s=guest_answers_within_s)
    sandbox.hide(container)


def _known(call: Call) -> bool:
    """Tell whether runc still has this container."""
    return (_runc_state(call) / "state.json").exists()


def _runc_state(call: Call) -> Path:
    return Path(call.globals.get("--root", "/run/runc"), call.id)


def _stopped(call: Call) -> bool:
    """Tell whether the process that runc started for this container has ended."""
    state = _state(call, call.id)
    return state is None or state["status"] == "stopped"


def _state(call: Call, container: str) -> dict | None:
    """Return what `runc state` says of a container, or None when runc has none of that id."""
    done = subprocess.run([RUNC, *_globals(call), "state", container], capture_output=True, text=True)
    return json.loads(done.stdout) if done.returncode == 0 else None


def _exec_ended(call: Call) -> bool:
    """Tell whether the process that runc started for this exec has ended."""
    pid_file = call.option("--pid-file")
    return pid_file is not None and not Path("/proc", Path(pid_file).read_text()).exists()


def _globals(call: Call) -> list[str]:
    return [f"--root={call.globals['--root']}"] if "--root" in call.globals else []


def _with_option(call: Call, option: str) -> list[str]:
    """Return the command line of `call` with one option more for its verb."""
    position = call.argv.index(call.verb) + 1
    return [*call.argv[:position], option, *call.argv[position:]]


def _runc(argv: list[str], listener: socket.socket | None = None, meanwhile: Callable[[], None] = lambda: None) -> int:
    """Run runc with our own input, output and descriptors (`listener` as the third), and `meanwhile` beside it.

    Returns its exit code.

    The engine's shim has this program killed when it dies itself. runc must die then as well: what it went on to
    create, after the engine has cleaned up, nobody would remove.
    """
    inherit = None
    if listener:
        listener.set_inheritable(True)

        def inherit() -> None:
            os.dup2(listener.fileno(), 3)

    command = ["setpriv", "--pdeathsig", "KILL", RUNC, *argv]
    with subprocess.Popen(command, close_fds=False, preexec_fn=inherit) as runc:  # waits, also where `meanwhile` fails
        meanwhile()
    return runc.returncode


def _runc_or_exit(argv: list[str]) -> None:
    """Run runc, and end as it does where it fails."""
    if code := _runc(argv):
        sys.exit(code)


def _argv(*verb: str) -> list[str]:
    """Return how a jail starts one of our programs: only /usr is there."""
    from .settings import RuntimeFailure

    program = Path(__file__).resolve().with_name("__main__.py")
    if not program.is_relative_to("/usr"):
        raise RuntimeFailure(f"{program}: the runtime must be installed below /usr, which is all that its jails see")
    return ["/usr/bin/python3", "-ISB", str(program), *verb]


def _replace(bundle: Path, config: dict) -> None:
    new = bundle / ".config.json"
    new.write_text(json.dumps(config))
    new.chmod(0o600)
    new.replace(bundle / "config.json")


def _say(call: Call, text: str) -> None:
    """Report an error as runc does: on stderr, and in the log that the shim reads."""
    with contextlib.suppress(OSError):  # a sandbox's stderr leads nowhere
        os.write(2, f"casemate-microvm: {text}\n".encode())
    if log := call.globals.get("--log"):
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        with open(log, "a") as file:
            if call.globals.get("--log-format") == "json":
                file.write(json.dumps({"level": "error", "msg": text, "time": stamp}) + "\n")
            else:
                file.write(f'time="{stamp}" level=error msg={json.dumps(text)}\n')
