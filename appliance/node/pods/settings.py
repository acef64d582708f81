"""What role `engine` tells the node programs about the engine: /etc/casemate/engine.json."""

import json
from dataclasses import dataclass, fields
from pathlib import Path

from . import cgroups
from .cri_model import DEFAULT_SOCKET

PATH = Path("/etc/casemate/engine.json")
SLICE = "casemate.slice"  # of role pods


@dataclass(frozen=True)
class Settings:
    """What the engine was configured with.

    `socket` is its CRI socket, `default_handler` the runtime of pods that name none, `cgroup_driver` who makes control
    groups: cgroupfs or systemd.
    """

    socket: str = DEFAULT_SOCKET
    default_handler: str = "microvm"
    cgroup_driver: str = "cgroupfs"

    def cgroup_parent(self, pod_name: str) -> str:
        """The control group that holds those of a pod's containers, and nothing else."""
        if self.cgroup_driver == "systemd":
            return f"/{SLICE}/{cgroups.slice_of(pod_name)}"
        return cgroups.PLAIN.format(pod_name)


def load(path: Path = PATH) -> Settings:
    """The settings of this host; the defaults where the file is not there yet."""
    try:
        values = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return Settings()
    return Settings(**{field.name: values[field.name] for field in fields(Settings) if field.name in values})
