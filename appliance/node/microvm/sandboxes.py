"""Run state of each pod's sandbox, below /run/casemate/microvm/ID, and its disk, /var/lib/casemate/microvm/disks/ID.

======== ==================================================================================================
``root``     the jail's empty root file system: mount points and the links of a merged /usr
``ctl``      a small file system that runtime, supervisor and stand-ins share: orders, info, the socket
``share``    one bind mount a container: its root file system, read-only; exported to the guest
``volumes``  one bind mount a volume, for all the containers that have it; exported to the guest
``users``    one file a container: the names of its volumes
``cgroups``  one file a jail or stand-in: the path of its control group
``netns``    a file with the path of the pod's network namespace
``uid``      the number of the user and group of this pod's QEMU, supervisor and stand-ins, and of no other pod's
``template`` a link to the template that the guest was to start from, where there was one
``runc``     a link to runc's state of the jail
``release``  a link to the release of these programs that made the sandbox, and serves it to its end
======== ==================================================================================================

``.containers/ID`` is a link from a workload container to its sandbox.

A sandbox belongs to the process that holds a lock on its directory (`create` and `delete` do) or, when nobody does, to
its jail. Both may be killed at any point; what then belongs to neither goes when the next sandbox is made.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import time
from collections.abc import Callable
from pathlib import Path

from appliance.node import places

from . import protocol
from .settings import RUN, STATE, RuntimeFailure

# What most calls of the runtime do not need is imported where it is used: each costs a pod's start some milliseconds.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from .spec import Volume

CONTAINERS = RUN / ".containers"
DISKS = STATE / "disks"
RELEASE = Path(__file__).resolve().parents[3]

FIRST_UID, UIDS = 0x7E000000, 1 << 24
"""Users of jails: a range that no distribution, container manager or directory service gives to anybody."""
CGROUPS = Path("/sys/fs/cgroup")
CGROUP_EMPTY_S = 1
CTL_BYTES, CTL_FILES = 1 << 20, 64
"""Most that a jail may write on the host."""


class NoAnswer(RuntimeFailure):
    """The guest's agent did not answer in time."""


class Sandbox:
    """One pod's sandbox; the object is a name, the state is in the directory."""

    def __init__(self, identifier: str):
        self.id = checked(identifier)
        self.directory = RUN / identifier
        self.root, self.ctl, self.share, self.volumes, self.users, self.cgroups = (
            self.directory / name for name in ("root", "ctl", "share", "volumes", "users", "cgroups")
        )
        self.netns, self.template, self.runc, self.release, self.made_of = (
            self.directory / name for name in ("netns", "template", "runc", "release", "made-of")
        )
        self.disk = DISKS / identifier
        self._lock: int | None = None

    @property
    def uid(self) -> int:
        return int((self.directory / "uid").read_text())

    def _take_uid(self) -> None:
        """Choose a user that no other sandbox has, by chance, lest the next pod should get the last one's."""
        taken = set()
        for other in all_sandboxes():
            with contextlib.suppress(FileNotFoundError):
                taken.add(other.uid)
        uid = int.from_bytes(os.urandom(4))
        while FIRST_UID + uid % UIDS in taken:
            uid += 1
        (self.directory / "uid").write_text(str(FIRST_UID + uid % UIDS))

    def make(self, runc_state: Path, empty_disk: Path) -> None:
        """Make the directories and a copy of `empty_disk`, and hold them while this process lives.

        What killed processes left goes first.
        """
        from . import mounts

        RUN.mkdir(parents=True, exist_ok=True)
        with places.locked(RUN / ".making"):
            for other in all_sandboxes():
                if other.runc.is_symlink() and not other.alive() and other.hold(wait=False):
                    other.remove()
            try:
                self.directory.mkdir(mode=0o700)
            except FileExistsError:
                raise RuntimeFailure(f"container with id {self.id} exists already") from None
            self.runc.symlink_to(runc_state)
            self._take_uid()
            self.hold()
        self.release.symlink_to(RELEASE)
        for directory in (self.ctl, self.share, self.volumes, self.users, self.cgroups):
            directory.mkdir(mode=0o755)
        mounts.tmpfs(str(self.ctl), f"size={CTL_BYTES},nr_inodes={CTL_FILES},mode=700,uid={self.uid},gid={self.uid}")
        for name in ("proc", "dev", "usr", "run/pod/ctl", "run/pod/share", "run/pod/volumes", "run/pod/guest",
                     "run/pod/template"):  # fmt: skip
            (self.root / name).mkdir(parents=True)
        (self.root / "run/pod/disk").touch()
        for name in ("bin", "sbin", "lib", "lib64"):
            if Path("/usr", name).is_dir():
                (self.root / name).symlink_to(f"usr/{name}")
        for directory in (self.share, self.volumes):
            # Shared, so that what is mounted below it later shows up in the jail.
            mounts.bind(str(directory), str(directory), shared=True)
        self._make_disk(empty_disk)

    def _make_disk(self, empty: Path) -> None:
        """Give the pod its disk; disks without a sandbox, left by a host that went down, go."""
        from . import store

        DISKS.mkdir(mode=0o700, exist_ok=True)
        for other in _entries(DISKS):
            if not (RUN / other.name).exists():
                other.unlink(missing_ok=True)
        store.copy_sparse(empty, self.disk)
        self.disk.chmod(0o600)
        os.chown(self.disk, self.uid, self.uid)

    def show(self, container: str, rootfs: str, volumes: list[Volume]) -> None:
        """Export a container's root file system and volumes to the guest."""
        from . import mounts

        CONTAINERS.mkdir(exist_ok=True)
        self.hide(container)  # what a killed call may have left of one of the same name
        (self.share / container).mkdir()
        (CONTAINERS / container).symlink_to(f"../{self.id}")
        mounts.bind(rootfs, str(self.share / container), read_only=True)
        with places.locked(self.users / ".lock"):
            (self.users / container).write_text("".join(f"{volume.name}\n" for volume in volumes))
            for volume in volumes:
                target = self.volumes / volume.name
                if mounts.below(target):
                    continue  # another container has it, too: both see one file in the guest, with its locks
                if Path(volume.source).is_dir():
                    target.mkdir(exist_ok=True)
                else:
                    target.touch()
                mounts.bind(volume.source, str(target), volume.read_only, volume.recursive)

    def hide(self, container: str) -> None:
        """Take a container's exports back. Only mount points are removed, once nothing is on them."""
        _remove_mount_point(self.share / container)
        with places.locked(self.users / ".lock"):
            mine = self._volumes_of(container)
            (self.users / container).unlink(missing_ok=True)
            others = {name for user in _entries(self.users) for name in self._volumes_of(user.name)}
            for name in mine - others:
                _remove_mount_point(self.volumes / name)
        self._remove_cgroup(container)
        (CONTAINERS / container).unlink(missing_ok=True)

    def _remove_cgroup(self, identifier: str) -> None:
        """Remove the control groups of a jail or stand-in that runc, killed while it made them, has left behind.

        They are empty, but for a process that is about to end. Those that systemd made go by themselves.
        """
        file = self.cgroups / identifier
        path = file.read_text() if file.exists() else ""
        deadline = time.monotonic() + CGROUP_EMPTY_S
        for group in {*CGROUPS.glob(f"*{path}"), CGROUPS / path[1:]} if path.startswith("/") else ():
            while group.is_dir() and time.monotonic() < deadline:
                with contextlib.suppress(OSError):
                    group.rmdir()
                    break
                time.sleep(0.02)
        file.unlink(missing_ok=True)

    def _volumes_of(self, container: str) -> set[str]:
        with contextlib.suppress(FileNotFoundError):
            return set((self.users / container).read_text().split())
        return set()

    def alive(self) -> bool:
        """Tell whether runc has a jail for this sandbox, in whatever state."""
        return (self.runc / "state.json").exists()

    def hold(self, wait: bool = True) -> bool:
        """Take this sandbox's lock, until this process ends. False when another has it, or the sandbox is gone."""
        with contextlib.suppress(FileNotFoundError):
            self._lock = self._lock or places.lock(self.directory, wait, os.O_DIRECTORY)
        return self._lock is not None and self.directory.exists()

    def remove(self) -> None:
        """Disconnect, unmount and remove everything of this sandbox, unless runc still has its jail."""
        if not self.hold() or self.alive():
            return
        import shutil

        from . import mounts, network

        if self.netns.exists():
            network.disconnect(self.netns.read_text())
        for container in self.containers():
            self.hide(container)
        self._remove_cgroup(self.id)
        mounts.unmount_below(self.directory)
        self.disk.unlink(missing_ok=True)
        shutil.rmtree(self.directory)

    def call(
        self, op: str, timeout_s: float = 60, meanwhile: Callable[[], None] = lambda: None, **arguments: object
    ) -> dict:
        """Call the guest's agent, do `meanwhile`, and return the agent's reply.

        Raises RuntimeFailure with the agent's own words.
        """
        link, reply = self.ask(op, timeout_s, meanwhile, **arguments)
        link.close()
        return reply

    def ask(
        self, op: str, timeout_s: float = 60, meanwhile: Callable[[], None] = lambda: None, **arguments: object
    ) -> tuple[socket.socket, dict]:
        """Do as `call` does, and return the open connection too: the agent sees when it is closed."""
        deadline = time.monotonic() + timeout_s
        try:
            with contextlib.ExitStack() as cleanup:
                link = cleanup.enter_context(socket.socket(socket.AF_UNIX))
                link.settimeout(timeout_s)
                self._connect(link)
                link.sendall(protocol.call(0, op, **arguments))
                meanwhile()
                decoder = protocol.Decoder(frozenset({protocol.REPLY}))
                while data := link.recv(65536):
                    for _, _, payload in decoder.feed(data):
                        reply = protocol.reply_of(payload)
                        if not reply["ok"]:
                            raise RuntimeFailure(reply["error"])
                        cleanup.pop_all()
                        return link, reply
                    link.settimeout(max(0.001, deadline - time.monotonic()))  # a guest may send byte by byte
        except protocol.ProtocolError as error:
            raise RuntimeFailure(f"the pod's guest does not speak our protocol, answering {op}: {error}") from None
        except TimeoutError:
            raise NoAnswer(f"the pod's guest did not answer {op} within {timeout_s:.0f} s") from None
        except OSError as error:
            raise RuntimeFailure(f"the pod's guest cannot be reached ({self.ctl}/sock: {error.strerror})") from None
        raise RuntimeFailure("the pod's guest has ended")

    def _connect(self, link: socket.socket) -> None:
        """Connect to the supervisor. The directory is the jail's: a link there must not lead to a host's socket."""
        file = os.open(self.ctl / "sock", os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            link.connect(f"/proc/self/fd/{file}")
        finally:
            os.close(file)

    def containers(self) -> list[str]:
        """Return the ids of the containers that the guest is shown."""
        return [entry.name for entry in _entries(self.share)]

    def info(self) -> dict:
        """Return what the supervisor says of the guest. Raises RuntimeFailure when there is no such running sandbox."""
        text = self.said("info.json")
        if text is None:
            raise RuntimeFailure(f"no microVM of the sandbox {self.id} is running here")
        try:
            return protocol.content(text.encode())
        except protocol.ProtocolError as error:
            raise RuntimeFailure(f"{self.ctl}/info.json, which the pod's jail wrote: {error}") from None

    def is_outdated(self) -> bool:
        """Whether a pod that is started now gets another QEMU or guest image than this one has."""
        from . import image

        now = image.current()
        try:
            return now is not None and self.made_of.read_text() != image.mark(now)
        except FileNotFoundError:  # of node programs that did not note it yet, or gone
            return self.directory.is_dir()

    def stats(self) -> dict:
        """Return what the guest (key guest) and its containers (key containers, by id) use, as its agent tells it.

        Raises RuntimeFailure when the guest does not answer.
        """
        reply = self.call("stats", timeout_s=10)
        return {key: reply[key] for key in ("guest", "containers")}

    def said(self, name: str) -> str | None:
        """Return what the supervisor wrote into its file `name`, or None.

        The directory is the jail's, so a link or a pipe in it is not followed, and no more than 64 KiB are read.
        """
        try:
            file = os.open(self.ctl / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            return os.read(file, 65536).decode(errors="replace")
        finally:
            os.close(file)


def export_name(source: str, read_only: bool, recursive: bool) -> str:
    """Return the name under which a volume is exported: the same for the same file, shown alike.

    Raises FileNotFoundError when there is no such file.
    """
    import hashlib

    found = Path(source).stat()

    key = repr([source, found.st_dev, found.st_ino, read_only, recursive])
    return hashlib.sha256(key.encode()).hexdigest()[:16]


def of_container(container: str) -> Sandbox | None:
    """Return the sandbox of a workload container of ours, or None."""
    with contextlib.suppress(OSError):
        return Sandbox((CONTAINERS / container).readlink().name)
    return None


def all_sandboxes() -> list[Sandbox]:
    """Return the sandboxes that have run state."""
    return [Sandbox(entry.name) for entry in _entries(RUN) if not entry.name.startswith(".")]


def checked(identifier: str) -> str:
    """Return `identifier`, which becomes part of paths. Raises RuntimeFailure when no engine could have made it."""
    if not re.fullmatch(r"\w[\w+.-]*", identifier, re.ASCII):
        raise RuntimeFailure(f"{identifier!r} is no id of a container")
    return identifier


def starting() -> contextlib.AbstractContextManager[None]:
    """Wait until fewer guests are being started than there are processors, and be one of them.

    Started all at once, a crowd shares the processors so thinly that each guest misses its deadline. Only guests that
    have no workload yet are counted, so that no workload can keep other pods from starting.
    """
    return places.place(RUN, "starting", os.cpu_count() or 1)


def _entries(directory: Path) -> list[Path]:
    return sorted(directory.iterdir()) if directory.is_dir() else []


def _remove_mount_point(path: Path) -> None:
    from . import mounts

    mounts.unmount_below(path)
    if path.is_dir():
        path.rmdir()
    else:
        path.unlink(missing_ok=True)
