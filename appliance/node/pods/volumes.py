"""A pod's files on the host: its volumes and its /etc/hosts.

What lives as long as the pod is below /var/lib/casemate/pods/NAME. What is made of ConfigMaps, Secrets and the
manifest itself, and emptyDir in memory, is below /run/casemate/volumes/NAME, which is memory: a Secret reaches no disk.
Both directories are root's alone.
"""

import contextlib
import os
import shutil
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import downward, objects
from .documents import ManifestError
from .manifest import Pod
from .quantity import parse_quantity

STATE_DIRECTORY = Path("/var/lib/casemate/pods")
MEMORY_DIRECTORY = Path("/run/casemate/volumes")
POOL_VOLUMES = Path("/var/lib/casemate/pool/volumes")  # role storage makes what storage_volumes names

Load = Callable[[str, str, bool], dict[str, bytes]]


class VolumeError(Exception):
    """A volume cannot be provided; the message names it and says why."""


@dataclass(frozen=True)
class Places:
    """Where volumes are on this host."""

    state: Path = STATE_DIRECTORY
    memory: Path = MEMORY_DIRECTORY
    pool: Path = POOL_VOLUMES


def prepare(pod: Pod, places: Places = Places(), load: Load = objects.load, in_use: bool = False) -> dict[str, Path]:
    """Make the pod's volumes and return their paths on the host by name. Existing data is kept. Raises VolumeError.

    Volumes `in_use`, by containers that an adopted pod has, belong to fsGroup already: a large one is not gone through
    again.
    """
    paths: dict[str, Path] = {}
    group = (pod.spec.get("securityContext") or {}).get("fsGroup")
    for own in (places.state / pod.name, places.memory / pod.name):
        own.mkdir(parents=True, exist_ok=True)
        own.chmod(0o700)  # for the pod, not for the host's other users
    for volume in pod.spec.get("volumes") or []:
        name = volume["name"]
        writable = False
        if volume.get("hostPath") is not None:
            paths[name] = _host_path(name, volume["hostPath"])
            continue
        if volume.get("persistentVolumeClaim") is not None:
            claim = volume["persistentVolumeClaim"]
            paths[name], writable = _claimed(name, claim["claimName"], places.pool), not claim.get("readOnly")
        elif volume.get("emptyDir") is not None:
            paths[name], writable = _empty(pod, name, volume["emptyDir"], places), True
        else:
            paths[name] = places.memory / pod.name / name
            _write(paths[name], _files(pod, name, volume, load), group)
        if group is not None and not in_use:
            _give_to_group(paths[name], group, writable, pod.spec["securityContext"].get("fsGroupChangePolicy"))
    return paths


def is_read_only(pod: Pod, name: str) -> bool:
    """Whether no container may write to a volume, whatever its mount says."""
    volume = next(volume for volume in pod.spec["volumes"] if volume["name"] == name)
    claim = volume.get("persistentVolumeClaim")
    made_here = any(volume.get(kind) is not None for kind in ("configMap", "secret", "downwardAPI", "projected"))
    return made_here or bool(claim and claim.get("readOnly"))


def write_hosts(pod: Pod, address: str, root: Path = STATE_DIRECTORY) -> Path:
    """Write the pod's /etc/hosts, for the pod's IP `address`, and return its path on the host."""
    lines = ["127.0.0.1\tlocalhost", "::1\tlocalhost ip6-localhost ip6-loopback"]
    if address:
        lines.append(f"{address}\t{pod.spec.get('hostname') or pod.name}")
    for alias in pod.spec.get("hostAliases") or []:
        lines.append(f"{alias['ip']}\t{' '.join(alias['hostnames'])}")
    path = root / pod.name / "etc-hosts"
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.write_text("\n".join(lines) + "\n")
    path.chmod(0o644)
    return path


def remove(pod_name: str, places: Places = Places()) -> None:
    """Delete the pod's files on the host; hostPath volumes and volumes of the pool are not touched."""
    for own in (places.memory / pod_name, places.state / pod_name):
        _unmount_below(own)
        shutil.rmtree(own, ignore_errors=True)


def sub_path(pod_name: str, volume: Path, relative: str, mark: str, places: Places = Places()) -> Path:
    """A path at which the engine finds a directory or file inside a volume, made as a directory where it is missing.

    A pod could have planted a symbolic link, and could plant one between our look and the engine's: links are not
    followed, and what was found is bound to a place of ours, called `mark`, out of the pod's reach. Raises VolumeError.
    """
    found = os.open(volume, os.O_PATH | os.O_DIRECTORY)
    try:
        for step in Path(relative).parts:
            with contextlib.suppress(OSError):  # what is there already, and what cannot be: the next line tells
                os.mkdir(step, dir_fd=found)
            following = os.open(step, os.O_PATH | os.O_NOFOLLOW, dir_fd=found)
            os.close(found)
            found = following
            if stat.S_ISLNK(os.fstat(found).st_mode):
                raise VolumeError(
                    f"subPath {relative!r} leads through a symbolic link, {step!r}, in its volume {volume}"
                )
        target = places.memory / pod_name / ".sub-paths" / mark
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_mount():
            _run("umount", "--lazy", str(target))
        if stat.S_ISDIR(os.fstat(found).st_mode):
            target.mkdir(exist_ok=True)
        else:
            target.touch()
        _run("mount", "--bind", "--no-canonicalize", f"/proc/self/fd/{found}", str(target), pass_fds=(found,))
        return target
    except OSError as error:
        raise VolumeError(f"subPath {relative!r} in {volume}: {error.strerror}") from None
    finally:
        os.close(found)


def _host_path(name: str, source: dict) -> Path:
    path, kind = Path(source["path"]), source.get("type") or ""
    try:
        if kind == "DirectoryOrCreate":
            path.mkdir(parents=True, exist_ok=True)
        elif kind == "FileOrCreate" and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(0o644)
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise VolumeError(
            f"volume {name!r}: hostPath {path} does not exist; create it, or use type DirectoryOrCreate"
        ) from None
    except OSError as error:  # a loop of links, a file where a directory should be
        raise VolumeError(f"volume {name!r}: hostPath {path}: {error.strerror}") from None
    wanted = {
        "Directory": stat.S_ISDIR, "DirectoryOrCreate": stat.S_ISDIR, "File": stat.S_ISREG,
        "FileOrCreate": stat.S_ISREG,
        "Socket": stat.S_ISSOCK, "CharDevice": stat.S_ISCHR, "BlockDevice": stat.S_ISBLK,
    }  # fmt: skip
    if kind and not wanted[kind](mode):
        raise VolumeError(f"volume {name!r}: hostPath {path} is not of type {kind}")
    return path


def _claimed(name: str, claim: str, pool: Path) -> Path:
    path = pool / claim
    if trouble := _pool_trouble(pool.parent):
        raise VolumeError(f"volume {name!r}: {trouble}")
    if not path.is_dir() or path.is_symlink():
        raise VolumeError(
            f"volume {name!r}: the pool has no volume {claim!r}; declare it in storage_volumes and deploy"
        )
    return path


def _pool_trouble(pool: Path) -> str:
    """Why the pool is not there, where a device is declared for it; "" where it is, or is a directory."""
    from appliance.node.storage import declared  # for pods that claim volumes alone

    try:
        declared.require_pool(pool)
    except declared.StorageError as error:
        return str(error)
    return ""


def _empty(pod: Pod, name: str, source: dict[str, Any], places: Places) -> Path:
    if source.get("medium") != "Memory":
        path = places.state / pod.name / "volumes" / name
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o777)  # as Kubernetes does: any user of the pod may write to an emptyDir
        return path
    path = places.memory / pod.name / name
    path.mkdir(exist_ok=True)
    if not path.is_mount():
        limit = source.get("sizeLimit")
        size = f",size={int(parse_quantity(limit))}" if limit is not None else ""
        _run("mount", "-t", "tmpfs", "-o", f"mode=0777,nosuid,nodev{size}", "casemate-volume", str(path))
    return path


def _files(pod: Pod, name: str, volume: dict[str, Any], load: Load) -> dict[str, tuple[bytes, int]]:
    """Content and mode of each file, by path, of a volume that is made of objects and of the manifest."""
    projected = volume.get("projected")
    sources = projected["sources"] if projected else [volume]
    default = projected.get("defaultMode") if projected else None
    files: dict[str, tuple[bytes, int]] = {}
    for source in sources:
        kind = next(kind for kind in ("configMap", "secret", "downwardAPI") if source.get(kind) is not None)
        given = source[kind]
        mode = given.get("defaultMode") if given.get("defaultMode") is not None else default
        mode = 0o644 if mode is None else mode
        if kind == "downwardAPI":
            items = [(i["path"], downward.field(pod, i["fieldRef"]["fieldPath"]).encode(), i) for i in given["items"]]
        else:
            items = _entries(name, kind, given, load)
        for path, content, item in items:
            files[path] = content, mode if item.get("mode") is None else item["mode"]
    return files


def _entries(name: str, kind: str, source: dict[str, Any], load: Load) -> list[tuple[str, bytes, dict[str, Any]]]:
    kind, optional = {"configMap": "ConfigMap", "secret": "Secret"}[kind], bool(source.get("optional"))
    called = source.get("secretName") or source["name"]
    try:
        entries = load(kind, called, optional)
    except ManifestError as error:
        raise VolumeError(f"volume {name!r}: {error}") from None
    found = []
    for item in source.get("items") or [{"key": key, "path": key} for key in entries]:
        if item["key"] in entries:
            found.append((item["path"], entries[item["key"]], item))
        elif not optional:
            raise VolumeError(f"volume {name!r}: {kind} {called!r} has no key {item['key']!r}")
    return found


def _write(root: Path, files: dict[str, tuple[bytes, int]], group: int | None) -> None:
    """Make a directory hold these files and no others; one that is right already is not touched."""
    root.mkdir(exist_ok=True)
    root.chmod(0o755)
    for old in sorted(root.rglob("*"), reverse=True):
        path = str(old.relative_to(root))
        if old.is_dir():
            with contextlib.suppress(OSError):  # one with something in it stays
                old.rmdir()
        elif path not in files:
            old.unlink()
    for path, (content, mode) in files.items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.exists() or file.read_bytes() != content:
            file.write_bytes(content)
        file.chmod(mode | (0o440 if group is not None else 0))


def _give_to_group(root: Path, group: int, writable: bool, policy: str | None) -> None:
    """Give a volume to fsGroup as Kubernetes does: its members may read, and write where anybody may."""
    top = root.stat()
    if policy == "OnRootMismatch" and top.st_gid == group and top.st_mode & stat.S_ISGID:
        return
    bits = 0o660 if writable else 0o440
    # The pod's programs may be writing here, so nothing is named by a path that they could turn into a link.
    for _, _, files, here in os.fwalk(root):
        _regroup(os.dup(here), group, bits)
        for entry in files:
            with contextlib.suppress(FileNotFoundError):
                _regroup(os.open(entry, os.O_PATH | os.O_NOFOLLOW, dir_fd=here), group, bits)


def _regroup(descriptor: int, group: int, bits: int) -> None:
    try:
        found, path = os.fstat(descriptor), f"/proc/self/fd/{descriptor}"
        if stat.S_ISLNK(found.st_mode):
            return
        if found.st_gid != group:
            os.chown(path, -1, group)
        more = bits | stat.S_ISGID | 0o110 if stat.S_ISDIR(found.st_mode) else bits
        Path(path).chmod(stat.S_IMODE(found.st_mode) | more)
    finally:
        os.close(descriptor)


def _unmount_below(root: Path) -> None:
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for mount in reversed(mounts):
        if mount.startswith(f"{root}/"):
            _run("umount", "--lazy", mount)


def _run(*command: str, pass_fds: tuple[int, ...] = ()) -> None:
    import subprocess  # not for every runner to hold

    done = subprocess.run(command, capture_output=True, text=True, check=False, pass_fds=pass_fds)
    if done.returncode:
        raise VolumeError(f"{' '.join(command)}: {done.stderr.strip()}")
