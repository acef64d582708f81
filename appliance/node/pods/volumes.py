"""A pod's files on the host: its volumes and its /etc/hosts, below /var/lib/casemate/pods/NAME."""

import shutil
import stat
from pathlib import Path

from . import configmaps
from .manifest import Pod

STATE_DIRECTORY = Path("/var/lib/casemate/pods")


class VolumeError(Exception):
    """A volume cannot be provided; the message names it and says why."""


def prepare(pod: Pod, root: Path = STATE_DIRECTORY) -> dict[str, Path]:
    """Make the pod's volumes and return their paths on the host by name. Existing data is kept. Raises VolumeError."""
    base = root / pod.name / "volumes"
    paths: dict[str, Path] = {}
    for volume in pod.spec.get("volumes") or []:
        name = volume["name"]
        path = base / name
        if volume.get("hostPath") is not None:
            paths[name] = _host_path(name, volume["hostPath"])
            continue
        path.mkdir(parents=True, exist_ok=True)
        if volume.get("configMap") is not None:
            _write_config_map(name, volume["configMap"], path)
        else:
            path.chmod(0o777)  # as Kubernetes does: any user of the pod may write to an emptyDir
        paths[name] = path
    if base.exists():
        # The volumes are for the pod, not for the host's other users, who could otherwise write to an emptyDir.
        (root / pod.name).chmod(0o700)
    return paths


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


def remove(pod_name: str, root: Path = STATE_DIRECTORY) -> None:
    """Delete the pod's files on the host; hostPath volumes are not touched."""
    shutil.rmtree(root / pod_name, ignore_errors=True)


def sub_path(volume: Path, relative: str) -> Path:
    """A directory or file inside a volume, made as a directory where it is missing. Raises VolumeError.

    A symbolic link that leads out of the volume is refused: a pod could have planted it.
    """
    path = volume / relative
    if not path.resolve().is_relative_to(volume.resolve()):
        raise VolumeError(f"subPath {relative!r} leads out of its volume {volume}")
    if not path.exists():
        path.mkdir(parents=True)
    return path


def _host_path(name: str, source: dict) -> Path:
    path, kind = Path(source["path"]), source.get("type") or ""
    if kind == "DirectoryOrCreate":
        path.mkdir(parents=True, exist_ok=True)
    elif kind == "FileOrCreate" and not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(0o644)
    if not path.exists():
        raise VolumeError(f"volume {name!r}: hostPath {path} does not exist; create it, or use type DirectoryOrCreate")
    wanted = {"Directory": path.is_dir, "DirectoryOrCreate": path.is_dir, "File": path.is_file}
    wanted |= {"FileOrCreate": path.is_file, "Socket": lambda: stat.S_ISSOCK(path.stat().st_mode)}
    if kind and not wanted[kind]():
        raise VolumeError(f"volume {name!r}: hostPath {path} is not of type {kind}")
    return path


def _write_config_map(name: str, source: dict, target: Path) -> None:
    try:
        entries = configmaps.require(source["name"], bool(source.get("optional")))
    except configmaps.ConfigMapError as error:
        raise VolumeError(f"volume {name!r}: {error}") from None
    mode = source.get("defaultMode")
    items = source.get("items") or [{"key": key, "path": key} for key in entries]
    for item in items:
        if item["key"] not in entries:
            if source.get("optional"):
                continue
            raise VolumeError(f"volume {name!r}: ConfigMap {source['name']!r} has no key {item['key']!r}")
        path = target / item["path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(entries[item["key"]])
        path.chmod(next(value for value in (item.get("mode"), mode, 0o644) if value is not None))
