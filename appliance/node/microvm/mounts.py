"""Mounts with the calls of Linux 5.12: a copy of a mount gets its flags before anybody can see it.

`mount --bind -o ro` is two steps, and what is seen between them, by a jail that receives the mount, stays writable.
"""

from __future__ import annotations

import ctypes
import os
import re
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)

OPEN_TREE, MOVE_MOUNT, MOUNT_SETATTR = 428, 429, 442  # the same numbers on every architecture
AT_FDCWD, AT_EMPTY_PATH, AT_RECURSIVE = -100, 0x1000, 0x8000
OPEN_TREE_CLONE, OPEN_TREE_CLOEXEC = 1, os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH = 4
ATTR_RDONLY, ATTR_NOSUID, ATTR_NODEV, ATTR_NOEXEC = 1, 2, 4, 8
MS_NOSUID, MS_NODEV, MS_NOEXEC = 2, 4, 8
MS_REC, MS_PRIVATE, MS_SHARED = 1 << 14, 1 << 18, 1 << 20
CLONE_NEWNS = 0x20000
MNT_DETACH, UMOUNT_NOFOLLOW = 2, 8


class _MountAttr(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "userns_fd")]


def bind(source: str, target: str, read_only: bool = False, recursive: bool = False, shared: bool = False) -> None:
    """Show `source` (file or directory) at `target`, without set-user-ID, devices or execution through it.

    The copy is cut off from the source's propagation: unmounting it, or anything below it, never touches the source.
    Raises OSError naming `source` and `target`.
    """
    try:
        flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | (AT_RECURSIVE if recursive else 0)
        tree = _call(OPEN_TREE, AT_FDCWD, os.fsencode(source), flags)
        try:
            attributes = ATTR_NOSUID | ATTR_NODEV | ATTR_NOEXEC | (ATTR_RDONLY if read_only else 0)
            change = _MountAttr(set=attributes, propagation=MS_PRIVATE)
            flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
            _call(MOUNT_SETATTR, tree, b"", flags, ctypes.byref(change), ctypes.sizeof(change))
            if shared:
                change = _MountAttr(propagation=MS_SHARED)
                _call(MOUNT_SETATTR, tree, b"", flags, ctypes.byref(change), ctypes.sizeof(change))
            _call(MOVE_MOUNT, tree, b"", AT_FDCWD, os.fsencode(target), MOVE_MOUNT_F_EMPTY_PATH)
        finally:
            os.close(tree)
    except OSError as error:
        raise OSError(error.errno, f"cannot mount {source} at {target}: {error.strerror}") from None


def tmpfs(target: str, options: str) -> None:
    """Mount an empty file system in memory at `target`. Raises OSError naming `target`."""
    flags = MS_NOSUID | MS_NODEV | MS_NOEXEC
    if _libc.mount(b"tmpfs", os.fsencode(target), b"tmpfs", ctypes.c_ulong(flags), options.encode()):
        code = ctypes.get_errno()
        raise OSError(code, f"cannot mount a tmpfs at {target}: {os.strerror(code)}")


def enter_own_namespace() -> None:
    """See from now on what is mounted as a copy: what this process mounts is seen by nobody else, and ends with it.

    What is mounted elsewhere is not seen either. Raises OSError. (os.unshare is Python 3.12's.)
    """
    if _libc.unshare(CLONE_NEWNS) or _libc.mount(None, b"/", None, ctypes.c_ulong(MS_REC | MS_PRIVATE), None):
        code = ctypes.get_errno()
        raise OSError(code, f"cannot have mounts of its own: {os.strerror(code)}")


def below(directory: Path) -> list[str]:
    """Return the mount points at or below `directory`, the last mounted first."""
    prefix = os.path.realpath(directory)
    points = []
    with open("/proc/self/mountinfo") as file:
        for line in file:
            # Blanks and the like are written as \040.
            point = re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), line.split(" ", 5)[4])
            if point == prefix or point.startswith(prefix + "/"):
                points.append(point)
    return points[::-1]


def unmount_below(directory: Path) -> None:
    """Unmount everything at and below `directory`. Raises OSError when something is still mounted afterwards."""
    for point in below(directory):
        _libc.umount2(os.fsencode(point), MNT_DETACH | UMOUNT_NOFOLLOW)
    if left := below(directory):
        raise OSError(f"cannot unmount {left[0]}; nothing below it was removed")


def _call(number: int, *arguments: object) -> int:
    converted = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result = _libc.syscall(ctypes.c_long(number), *converted)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
