"""Finding the init process of a systemd-nspawn host from its root directory.

Kept free of imports from the rest of the package: the Ansible connection plugin uses it too.
A host's leader changes with each reboot, so it is looked up at each use and never remembered.
"""

from pathlib import Path

PROC = Path("/proc")


def supervisor_of(root: Path) -> int | None:
    """The pid of the systemd-nspawn process that was started with `--directory=ROOT`, or None."""
    wanted = f"--directory={root}".encode()
    for entry in PROC.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            argv = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue  # it ended while we looked
        if wanted in argv and Path(argv[0].decode()).name == "systemd-nspawn":
            return int(entry.name)
    return None


def leader_of(root: Path) -> int | None:
    """The pid, on this machine, of the host's own PID 1, or None while there is none."""
    supervisor = supervisor_of(root)
    if supervisor is None:
        return None
    pending = _children(supervisor)
    while pending:
        pid = pending.pop()
        if _pid_in_namespace(pid) == 1:
            return pid
        pending.extend(_children(pid))
    return None


def _children(pid: int) -> list[int]:
    try:
        return [int(c) for c in (PROC / str(pid) / "task" / str(pid) / "children").read_text().split()]
    except OSError:
        return []


def _pid_in_namespace(pid: int) -> int | None:
    """The pid as the process itself sees it; None for a process of this machine's own namespace."""
    try:
        for line in (PROC / str(pid) / "status").read_text().splitlines():
            if line.startswith("NSpid:"):
                pids = line.split()[1:]
                return int(pids[-1]) if len(pids) > 1 else None
    except OSError:
        pass
    return None
