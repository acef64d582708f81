"""Running one program on an inventory's hosts with our own input, output and terminal, which Ansible cannot hand on.

The connection is the one that Ansible would make: its variables are read, its programs (ssh, sudo) are called.
"""

import contextlib
import json
import os
import shlex
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from appliance.errors import EXIT_FAILED, EXIT_OK, EXIT_UNREACHABLE, UnreachableError, UsageError
from appliance.inventory import GUIDE, Host
from appliance.lab import nspawn
from appliance.lab.leader import leader_of
from appliance.schema import UNKNOWN

POD_PROGRAM = "/usr/lib/casemate/bin/casemate-pod"
_SSH_FAILED, _NO_PROGRAM = 255, 127
_AT_ONCE = 16
_WAKE_SECONDS = 2


@dataclass
class Answer:
    """What a host answered to a question: `value` is its JSON, `error` why there is none."""

    host: Host
    value: object = None
    error: str = ""
    unreachable: bool = False


def ask(
    hosts: Iterable[Host], *command: str, heard: Callable[[Host, str], None] = lambda host, line: None
) -> list[Answer]:
    """Run `command` on each host and read the JSON that it prints; in the hosts' order.

    `heard` gets each line that it says on stderr meanwhile, from several threads.
    """
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(lambda host: _ask(host, list(command), heard), hosts))


def _ask(host: Host, command: list[str], heard: Callable[[Host, str], None]) -> Answer:
    said = []
    try:
        with (
            tempfile.TemporaryFile("w+") as answer,
            subprocess.Popen(
                argv(host, command), stdin=subprocess.DEVNULL, stdout=answer, stderr=subprocess.PIPE, text=True
            ) as done,
        ):
            with _kept_awake(done.pid):
                for line in done.stderr:
                    said.append(line.strip())
                    heard(host, said[-1])
                code = done.wait()
            answer.seek(0)
            printed = answer.read()
    except UnreachableError as error:
        return Answer(host, error=error.message, unreachable=True)
    if code == 0:
        return Answer(host, json.loads(printed))
    error = [line for line in said if line][-1:] or [f"{command[0]} ended with {code}"]
    if code == _NO_PROGRAM:
        error = [f"{command[0]} is not there: `appliance deploy` installs it"]
    return Answer(host, error=error[0], unreachable=is_unreachable(host, code))


@contextlib.contextmanager
def connect(host: Host, *command: str, stderr: IO | None = None) -> Iterator[subprocess.Popen]:
    """Run `command` on the host with pipes to its input and from its output; it is dead at the end.

    A Ctrl-C that ends us does not end it: what it is told last is ours to say. Raises UnreachableError, UsageError.
    """
    with subprocess.Popen(
        argv(host, list(command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr,
        start_new_session=True,
    ) as process:  # fmt: skip
        try:
            with _kept_awake(process.pid):
                yield process
        finally:
            process.kill()


def is_unreachable(host: Host, code: int) -> bool:
    """Whether this exit code of `connect`'s or of `ask`'s process means that the host was not reached."""
    return code == _SSH_FAILED and _connection(host) == "ssh"


def exit_code(answers: Iterable[Answer]) -> int:
    """Our exit code of a question to several hosts."""
    answers = list(answers)
    if any(answer.error and not answer.unreachable for answer in answers):
        return EXIT_FAILED
    return EXIT_UNREACHABLE if any(answer.unreachable for answer in answers) else EXIT_OK


@contextlib.contextmanager
def _kept_awake(pid: int) -> Iterator[None]:
    """Have a process that was stopped go on, to see that what it waits for is gone.

    nsenter, which leads into lab hosts, stops when what it runs is stopped. systemd stops everything when a host goes
    down, before it kills it, and then nobody wakes nsenter.
    """
    over = threading.Event()

    def wake() -> None:
        while not over.wait(_WAKE_SECONDS):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    thread = threading.Thread(target=wake, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def argv(host: Host, command: list[str], *, terminal: bool = False) -> list[str]:
    """The argv that runs `command` on the host as root, with a terminal there where `terminal`.

    Raises UnreachableError when the host is known to be down, UsageError when its variables name no way that we know.
    """
    connection = _connection(host)
    if connection == "casemate_nspawn":
        leader = leader_of(Path(_text(host, "ansible_nspawn_directory")))
        if leader is None:
            raise UnreachableError(f"{host.name} is not running", cure="appliance lab up")
        # nsenter passes on no signal and its child would outlive it
        return [*nspawn.enter(leader), "setpriv", "--pdeathsig", "TERM", *command]
    if connection == "local":
        return [*_become(host), *command]
    if connection == "ssh":
        return [
            *_ssh(host),
            *(["-t"] if terminal else []),
            "--",
            _address(host),
            shlex.join([*_become(host), *command]),
        ]
    raise UsageError(
        f"{host.name}: ansible_connection is {connection}, through which no program can be run with its own input",
        place=GUIDE,
        cure="ssh, local or a lab host",
    )


def _connection(host: Host) -> str:
    name = _text(host, "ansible_connection") or "ssh"
    return {"smart": "ssh", "ansible.builtin.ssh": "ssh", "ansible.builtin.local": "local"}.get(name, name)


def _address(host: Host) -> str:
    return _text(host, "ansible_host", "ansible_ssh_host") or host.name


def _ssh(host: Host) -> list[str]:
    if _text(host, "ansible_password", "ansible_ssh_password", "ansible_ssh_pass"):
        cure = "give it your key (ssh-copy-id)"
        raise UsageError(f"{host.name}: this verb logs in by key, not by password", place="ansible_password", cure=cure)
    timeout = _text(host, "ansible_ssh_timeout", "ansible_timeout") or "10"
    words = [
        _text(host, "ansible_ssh_executable") or "ssh",
        "-o",
        "BatchMode=yes",
        "-o",
        f"ConnectTimeout={timeout}",
        "-o",
        "ServerAliveInterval=10",
        "-o",
        "ServerAliveCountMax=3",
    ]
    for option, *names in (
        ("-p", "ansible_port", "ansible_ssh_port"),
        ("-l", "ansible_user", "ansible_ssh_user", "ANSIBLE_REMOTE_USER"),
        ("-i", "ansible_private_key_file", "ansible_ssh_private_key_file", "ANSIBLE_PRIVATE_KEY_FILE"),
    ):
        if value := _text(host, *names):
            words += [option, str(Path(value).expanduser()) if option == "-i" else value]
    checking = _text(host, "ansible_host_key_checking", "ansible_ssh_host_key_checking", "ANSIBLE_HOST_KEY_CHECKING")
    if checking.lower() in ("false", "no", "0"):
        words += ["-o", "StrictHostKeyChecking=no"]
    for names in (("ansible_ssh_args", "ANSIBLE_SSH_ARGS"), ("ansible_ssh_common_args",), ("ansible_ssh_extra_args",)):
        words += shlex.split(_text(host, *names))
    return words


def _become(host: Host) -> list[str]:
    """How the user that logs in becomes root; sudo cannot ask for a password here."""
    if not host.vars.get("ansible_become"):
        return []
    method = _text(host, "ansible_become_method") or "sudo"
    if method not in ("sudo", "ansible.builtin.sudo"):
        raise UsageError(f"{host.name}: ansible_become_method is {method}; this verb knows sudo only", place=GUIDE)
    return ["sudo", "-n", "--"]


def _text(host: Host, *names: str) -> str:
    """The first of these variables of the host, or of the environment (in capitals), that has a value."""
    for name in names:
        value = os.environ.get(name, "") if name.isupper() else host.vars.get(name, "")
        if value is UNKNOWN:
            cure = "give it as a plain value"
            raise UsageError(f"{host.name}: {name} is known only while a playbook runs", place=GUIDE, cure=cure)
        if value != "":
            return str(value)
    return ""
