"""Runs on the host and in pods, alone: io_load.py DIRECTORY prints what its file system does, as JSON."""

import json
import os
import random
import sys
import time
from pathlib import Path

SIZE, BLOCK, PAGE = 64 << 20, 1 << 20, 4096
SECONDS = 1.0


def rate(action):
    """Call `action(i)` for about a second; return calls a second."""
    begin, count = time.perf_counter(), 0
    while (spent := time.perf_counter() - begin) < SECONDS:
        action(count)
        count += 1
    return round(count / spent, 1)


def main(directory):
    path = Path(directory, "load")
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    block = os.urandom(BLOCK)
    begin = time.perf_counter()
    for _ in range(SIZE // BLOCK):
        os.write(file, block)
    os.fsync(file)
    result = {"write_mib_s": round(SIZE / (1 << 20) / (time.perf_counter() - begin), 1)}
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    begin = time.perf_counter()
    for position in range(0, SIZE, BLOCK):
        os.pread(file, BLOCK, position)
    result["read_mib_s"] = round(SIZE / (1 << 20) / (time.perf_counter() - begin), 1)
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    pages = random.Random(1)  # noqa: S311 (positions)
    result["random_read_per_s"] = rate(lambda i: os.pread(file, PAGE, pages.randrange(SIZE // PAGE) * PAGE))
    page = block[:PAGE]
    result["random_write_per_s"] = rate(lambda i: os.pwrite(file, page, pages.randrange(SIZE // PAGE) * PAGE))

    def durable(i):
        os.pwrite(file, page, i % (SIZE // PAGE) * PAGE)
        os.fsync(file)

    result["fsync_per_s"] = rate(durable)
    os.close(file)
    path.unlink()

    def metadata(i):
        new = Path(directory, f"f{i}")
        new.touch(exist_ok=False)
        renamed = new.rename(f"{new}r")
        renamed.stat()
        renamed.unlink()

    result["files_per_s"] = rate(metadata)
    print(json.dumps(result), flush=True)


main(sys.argv[1])
