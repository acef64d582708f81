"""The state of dpkg's database, without taking its lock."""

from __future__ import annotations

import fcntl
import struct

from appliance.node.health.host import Host, Result

LOCK = "/var/lib/dpkg/lock-frontend"
UPDATES = "/var/lib/dpkg/updates"
# struct flock on 64-bit Linux: type, whence, start, length, pid.
FLOCK = "hhqqi"


def audit(host: Host) -> Result:
    """What `dpkg --audit` says: nothing where every package is either installed or not."""
    return host.run(["dpkg", "--root", str(host.root), "--audit"])


def unfinished(host: Host, audited: Result) -> list[str]:
    """What an interrupted dpkg left behind: packages in between, and its journal; apt refuses to work with either."""
    packages = [line.strip() for line in audited.out.splitlines() if line.startswith(" ")]
    directory = host.path(UPDATES)
    journal = sorted(one.name for one in directory.iterdir() if one.name.isdigit()) if directory.is_dir() else []
    return packages + [f"{UPDATES}/{name}" for name in journal]


def lock_holder(host: Host) -> int:
    """Process id of whoever holds the lock; 0 if nobody does, or there is no lock file."""
    try:
        with host.path(LOCK).open("rb") as lock:
            asked = struct.pack(FLOCK, fcntl.F_WRLCK, 0, 0, 0, 0)
            kind, _, _, _, pid = struct.unpack(FLOCK, fcntl.fcntl(lock, fcntl.F_GETLK, asked))
    except OSError:
        return 0
    return 0 if kind == fcntl.F_UNLCK else pid
