"""The machine as the checks see it: files below `root`, programs, addresses; each can be put in by a test."""

from __future__ import annotations

import hashlib
import os
import socket
import ssl
import subprocess
import threading
import time
import urllib.request
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path


@dataclass(frozen=True)
class Result:
    """How a program ended: `code` is 127 where there is no such program, 124 where it took too long."""

    code: int
    out: str = ""
    err: str = ""

    @property
    def message(self) -> str:
        """The last line it wrote, errors first: what a person would read."""
        lines = (self.err.strip() or self.out.strip()).splitlines()
        return lines[-1] if lines else f"exit code {self.code}"


@dataclass(frozen=True)
class Answer:
    """A server's answer: the SHA-256 of its body in hex, and its clock in seconds since the epoch, if it told."""

    sha256: str
    date: float | None


class Host:
    """This machine. Methods look and change nothing."""

    def __init__(self, root: Path = Path("/")) -> None:
        self.root = root

    def path(self, name: str) -> Path:
        """The path `name`, absolute on the host, below `root`."""
        return self.root / name.lstrip("/")

    def read(self, name: str) -> str:
        """The text of a file, or "" where it is missing or unreadable."""
        try:
            return self.path(name).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""

    def run(self, argv: list[str], timeout: float = 10.0) -> Result:
        """Run a program without a shell, in the C locale."""
        environment = {**os.environ, "LC_ALL": "C", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
        try:
            done = subprocess.run(
                argv,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout,
                env=environment,
                check=False,
            )
        except FileNotFoundError:
            return Result(127, err=f"{argv[0]}: not there")
        except OSError as error:
            return Result(126, err=f"{argv[0]}: {error.strerror}")
        except subprocess.TimeoutExpired:
            return Result(124, err=f"{argv[0]}: no answer within {timeout:g} s")
        return Result(done.returncode, done.stdout, done.stderr)

    def connect(self, address: str, port: int, timeout: float) -> str | None:
        """Resolve and connect over TCP; return None when that worked, else what went wrong.

        The resolver has no deadline of its own, so it runs in a daemon thread that is left behind when it is late.
        """
        answer: list[str | None] = []

        def attempt(again: bool = True) -> None:
            try:
                socket.create_connection((address, port), timeout=timeout).close()
                answer.append(None)
            except socket.gaierror as error:
                if error.errno == socket.EAI_AGAIN and again:  # the resolver itself says: temporary
                    time.sleep(0.5)
                    attempt(again=False)
                else:
                    answer.append(f"cannot resolve {address}: {error.strerror}")
            except OSError as error:
                answer.append(f"cannot connect to {address}:{port}: {error.strerror or error}")

        thread = threading.Thread(target=attempt, daemon=True)
        thread.start()
        thread.join(timeout)
        return answer[0] if answer else f"no answer from {address}:{port} within {timeout:g} s"

    def fetch(self, url: str, timeout: float = 5.0) -> str:
        """The body of an http URL of this host; raises OSError. No proxy: these are the host's own services."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(url, timeout=timeout) as answer:
            return answer.read().decode("utf-8", errors="replace")

    def ask_unverified(self, url: str, timeout: float) -> Answer:
        """What an https server answers, whoever it is: for what is judged by a hash afterwards. Raises OSError."""
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        handlers = (urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
        with urllib.request.build_opener(*handlers).open(url, timeout=timeout) as answer:
            date = parsedate_to_datetime(answer.headers["Date"]).timestamp() if answer.headers["Date"] else None
            return Answer(hashlib.sha256(answer.read(1 << 20)).hexdigest(), date)

    def now(self) -> float:
        """Seconds since the epoch."""
        return time.time()

    def euid(self) -> int:
        """The effective user id."""
        return os.geteuid()

    def hostname(self) -> str:
        """The host's name as the kernel has it."""
        return socket.gethostname()

    def free_mib(self, name: str) -> int:
        """Space left for ordinary users on the file system of the nearest existing parent of `name`, in MiB."""
        stat = os.statvfs(self.existing(name))
        return stat.f_bavail * stat.f_frsize // (1 << 20)

    def existing(self, name: str) -> Path:
        """`name` below root, or its nearest parent that exists."""
        path = self.path(name)
        while not path.exists():
            path = path.parent
        return path
