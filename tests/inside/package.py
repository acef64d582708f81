"""Runs on a lab host: put a package into the host's own package source, in place of others of its name; prints {}.

usage: package NAME VERSION {"postinst": shell, "files": {path: text}, "big": path of a file of 3 MB}
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCE = Path("/tmp/casemate-test/source")
CONTROL = "Package: {}\nVersion: {}\nArchitecture: all\nMaintainer: a test <x@localhost>\nDescription: made by a test\n"


def put(tree, path, data, mode=0o644):
    file = Path(f"{tree}{path}")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    file.chmod(mode)


def main(name, version, content):
    wanted = json.loads(content)
    SOURCE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as tree:
        Path(tree).chmod(0o755)
        put(tree, "/DEBIAN/control", CONTROL.format(name, version).encode())
        for path, text in wanted.get("files", {}).items():
            put(tree, path, f"{text}\n".encode())
        if big := wanted.get("big"):
            put(tree, big, os.urandom(3_000_000))
        if postinst := wanted.get("postinst"):
            put(tree, "/DEBIAN/postinst", f"#!/bin/sh\n{postinst}\n".encode(), 0o755)
        for old in SOURCE.glob(f"{name}_*"):
            old.unlink()
        deb = SOURCE / f"{name}_{version}_all.deb"
        subprocess.run(["dpkg-deb", "--build", "--root-owner-group", tree, deb], check=True, capture_output=True)
    records = []
    for deb in sorted(SOURCE.glob("*.deb")):
        control = subprocess.check_output(["dpkg-deb", "--field", deb], text=True)
        data = deb.read_bytes()
        sums = f"Size: {len(data)}\nSHA256: {hashlib.sha256(data).hexdigest()}\n"
        records.append(f"{control}Filename: ./{deb.name}\n{sums}")
    (SOURCE / "Packages").write_text("\n".join(records))
    Path("/etc/apt/sources.list.d/casemate-test.list").write_text(f"deb [trusted=yes] file:{SOURCE} ./\n")
    print("{}")


if __name__ == "__main__":
    main(*sys.argv[1:])
