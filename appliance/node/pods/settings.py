"""What role `engine` tells the node programs about the engine: /etc/casemate/engine.json."""

import json
from dataclasses import dataclass, fields
from pathlib import Path

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

    @property
    def cgroup_parent(self) -> str:
        """Below which control group the engine puts pods; empty for the engine's own choice.

        With the driver systemd that choice is a plain path, which runc refuses: it wants the name of a slice.
        """
        return SLICE if self.cgroup_driver == "systemd" else ""


def load(path: Path = PATH) -> Settings:
    """The settings of this host; the defaults where the file is not there yet."""
    try:
        values = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return Settings()
    return Settings(**{field.name: values[field.name] for field in fields(Settings) if field.name in values})
