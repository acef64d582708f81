"""What the lab keeps on disk: one directory a host, a record in it, and the inventory of them all.

    $CASEMATE_LAB_DIR (/var/lib/casemate-lab)/
        lock            held while hosts are made or removed
        before.json     settings of the machine that the lab changed, to put back
        hosts.json      an Ansible inventory of the hosts
        hosts/NAME/     host.json, console.log, disk.img, and root/ or the like

A record is written before anything is made, so that `lab down` finds what a killed `lab up` began.
"""

import contextlib
import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TextIO

from appliance.errors import CasemateError

LOCK_SECONDS = 300
# the first three parts of the lab's /24; another where a site has this one
PREFIX = os.environ.get("CASEMATE_LAB_PREFIX", "10.87.0")
SUBNET = f"{PREFIX}.0/24"
GATEWAY = f"{PREFIX}.1"
FIRST_ADDRESS = 11  # 10.87.0.11 is the first host's
LAST_ADDRESS = 250


@dataclass
class Host:
    """One lab host. `index` (1...) gives its address and interface names; sizes are in MiB."""

    name: str
    kind: str
    release: str
    index: int
    disk_mib: int
    memory_mib: int = 0
    vars: dict = field(default_factory=dict)

    @property
    def ip(self) -> str:
        return f"{PREFIX}.{FIRST_ADDRESS + self.index - 1}"

    @property
    def dir(self) -> Path:
        return hosts_dir() / self.name

    @property
    def root(self) -> Path:
        return self.dir / "root"

    @property
    def disk(self) -> Path:
        return self.dir / "disk.img"

    @property
    def console(self) -> Path:
        return self.dir / "console.log"

    @property
    def netns(self) -> str:
        return f"casemate-{self.name}"

    @property
    def interface(self) -> str:
        """The machine's end of the host's cable, at most 15 characters as Linux demands."""
        return f"cmlab-{self.index}"


def lab_dir() -> Path:
    return Path(os.environ.get("CASEMATE_LAB_DIR", "/var/lib/casemate-lab"))


def cache_dir() -> Path:
    return Path(os.environ.get("CASEMATE_LAB_CACHE", "/var/cache/casemate-lab"))


def hosts_dir() -> Path:
    return lab_dir() / "hosts"


def load(name: str) -> Host | None:
    try:
        return Host(**json.loads((hosts_dir() / name / "host.json").read_text()))
    except FileNotFoundError:
        return None


def load_all() -> list[Host]:
    if not hosts_dir().is_dir():
        return []
    return sorted(filter(None, (load(d.name) for d in hosts_dir().iterdir())), key=lambda h: h.index)


def save(host: Host) -> None:
    host.dir.mkdir(parents=True, exist_ok=True)
    _write_json(host.dir / "host.json", asdict(host))


def forget(host: Host) -> None:
    """Remove the host's directory, its record last of all."""
    for entry in host.dir.iterdir():
        if entry.name == "host.json":
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    shutil.rmtree(host.dir)


def free_index(hosts: list[Host]) -> int:
    """The lowest index that no host has. Raises CasemateError when the lab's subnet is full."""
    taken = {h.index for h in hosts}
    for index in range(1, LAST_ADDRESS - FIRST_ADDRESS + 2):
        if index not in taken:
            return index
    raise CasemateError(f"the lab's network {SUBNET} is full", cure="appliance lab down")


def inventory_path() -> Path:
    return lab_dir() / "hosts.json"


def write_inventory() -> None:
    """Write the hosts as an Ansible inventory (static, JSON is YAML), or remove it with the last host."""
    hosts = load_all()
    if not hosts:
        inventory_path().unlink(missing_ok=True)
        return
    _write_json(inventory_path(), {"appliance": {"hosts": {h.name: h.vars for h in hosts}}})


def remember_before(settings: dict) -> None:
    """Keep the machine's own settings, once: a second `lab up` must not take the lab's for the machine's."""
    path = lab_dir() / "before.json"
    if not path.exists():
        _write_json(path, settings)


def take_before() -> dict:
    path = lab_dir() / "before.json"
    try:
        settings = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    path.unlink()
    return settings


@contextlib.contextmanager
def locked(progress: Callable[[str], None], patience: float = LOCK_SECONDS) -> Iterator[None]:
    """Hold the lab for one change, waiting up to `patience` seconds for another one to end.

    The kernel lets go of the lock when its holder dies.
    """
    deadline = time.monotonic() + patience
    told = False
    while True:
        lab_dir().mkdir(parents=True, exist_ok=True)
        with (lab_dir() / "lock").open("a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.seek(0)
                holder = f"another 'appliance lab' is changing the lab (pid {lock.read().strip() or 'unknown'})"
                if time.monotonic() > deadline:
                    raise CasemateError(holder, place=str(lab_dir()), cure="wait until it ends") from None
                if not told:
                    progress(f"{holder}; waiting")
                    told = True
                time.sleep(0.2)
                continue
            # `lab down` removes the directory with the lock in it: what we hold must be what others will ask for
            if not _is_the_file(lock, lab_dir() / "lock"):
                continue
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            yield
            return


def _is_the_file(opened: TextIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(opened.fileno()), path.stat())
    except FileNotFoundError:
        return False


def remove_if_empty() -> None:
    """With the last host gone, nothing of the lab stays but its cached base images."""
    if not load_all():
        shutil.rmtree(lab_dir(), ignore_errors=True)


def _write_json(path: Path, value: dict) -> None:
    """Replace the file in one step: a killed run leaves the old text or the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")
    new.replace(path)
