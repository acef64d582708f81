"""What a host's file system and a machine's kernel hold: listings to compare before and after."""

import hashlib
import os
import re
import stat
import subprocess
from pathlib import Path

from appliance.lab import state

# What a running host writes by itself, deployed or not.
RUNTIME = ("proc", "sys", "dev", "run", "tmp")


def files(root: Path, excluded: tuple[str, ...] = ()) -> dict[str, tuple]:
    """Every entry below a host's root, by path: type, mode, owner, and for files size, mtime and digest.

    Left out are RUNTIME and the paths (or beginnings of paths) in `excluded`, all relative to the root.
    """
    found = {}
    for directory, directories, names in os.walk(root):
        inside = os.path.relpath(directory, root)
        directories[:] = [d for d in directories if not _skip(inside, d, excluded)]
        for name in [*directories, *names]:
            path = os.path.join(directory, name)
            key = os.path.normpath(os.path.join(inside, name))
            if name in names and _skip(inside, name, excluded):
                continue
            status = os.lstat(path)
            entry = (stat.filemode(status.st_mode), status.st_uid, status.st_gid)
            if stat.S_ISREG(status.st_mode):
                digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
                entry += (status.st_size, status.st_mtime_ns, digest)
            elif stat.S_ISLNK(status.st_mode):
                entry += (os.readlink(path),)
            found[key] = entry
    return found


def difference(before: dict, after: dict) -> list[str]:
    """One readable line for each entry that came, went or changed."""
    lines = [f"+ {key}" for key in sorted(after.keys() - before.keys())]
    lines += [f"- {key}" for key in sorted(before.keys() - after.keys())]
    lines += [f"~ {key}: {before[key]} -> {after[key]}" for key in sorted(before.keys() & after.keys())
              if before[key] != after[key]]  # fmt: skip
    return lines


def machine(name: str) -> dict[str, set[str]]:
    """What the lab host `name` could leave on this machine, by kind.

    Listings are whole but for what belongs to other lab hosts; of processes, those of this host.
    """
    others = [h for h in state.load_all() if h.name != name]
    foreign = [re.escape(word) for h in others for word in (h.name, str(h.dir))]
    foreign += [rf"cmlab-{h.index}\b" for h in others]
    # systemd-nspawn names its locks after the root's inode
    foreign += [rf"inode-\d+:{h.root.stat().st_ino}\b" for h in others if h.root.is_dir()]
    pattern = re.compile("|".join(foreign)) if foreign else re.compile(r"(?!)")
    listings = {
        "processes": _processes(name),
        "namespaces": _run("ip", "netns", "list"),
        "interfaces": {re.sub("@.*", "", line.split()[0]) for line in _run("ip", "-br", "link") if line},
        "nft": _run("nft", "list", "ruleset"),
        "mounts": {line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()},
        "loops": _run("losetup", "-n", "-O", "NAME,BACK-FILE"),
        "cgroups": {str(d) for d in Path("/sys/fs/cgroup").glob("*/casemate-lab-*")}
        | {str(d) for d in Path("/sys/fs/cgroup").glob("casemate-lab-*")},
        "files": {str(p) for p in state.hosts_dir().glob("*")}
        | {str(p) for p in Path("/run/systemd/nspawn").rglob("*")},
    }
    return {kind: {line for line in lines if not pattern.search(line)} for kind, lines in listings.items()}


def _processes(name: str) -> set[str]:
    """Processes in the host (by control group) and those that make or keep it (by arguments)."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            groups = (process / "cgroup").read_text()
            state = (process / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state == "Z":  # it has ended; this machine's init reaps it in its own time
            continue
        if re.search(rf"casemate-lab-{name}\b", groups) or name in arguments:
            found.add(f"{process.name} {arguments}")
    return found


def _skip(inside: str, name: str, excluded: tuple[str, ...]) -> bool:
    if inside == ".":
        return name in RUNTIME or name in excluded
    return os.path.normpath(os.path.join(inside, name)).startswith(excluded) if excluded else False


def _run(*argv: str) -> set[str]:
    return set(subprocess.run(argv, capture_output=True, text=True, check=False).stdout.splitlines())
