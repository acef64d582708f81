"""A writer of initramfs archives (cpio "newc"), with nothing in them that differs from one run to the next."""

from __future__ import annotations

import stat


class Writer:
    """Collects members; `end` returns the archive, padded so that another may follow it uncompressed."""

    def __init__(self) -> None:
        self._out = bytearray()
        self._inode = 0

    def directory(self, name: str, mode: int = 0o755) -> None:
        self._member(name, stat.S_IFDIR | mode, b"")

    def file(self, name: str, content: bytes, mode: int = 0o644) -> None:
        self._member(name, stat.S_IFREG | mode, content)

    def end(self) -> bytes:
        self._member("TRAILER!!!", 0, b"")
        self._pad(512)
        return bytes(self._out)

    def _member(self, name: str, mode: int, content: bytes) -> None:
        self._inode += 1
        encoded = name.encode() + b"\0"
        # inode, mode, uid, gid, links, mtime, size, device (2), special device (2), length of the name, checksum
        numbers = (self._inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(encoded), 0)
        self._out += b"070701" + b"".join(b"%08X" % number for number in numbers) + encoded
        self._pad(4)
        self._out += content
        self._pad(4)

    def _pad(self, boundary: int) -> None:
        self._out += b"\0" * (-len(self._out) % boundary)
