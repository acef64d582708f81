"""What role `engine` tells the node programs about the engine: /etc/casemate/engine.json."""

import json
from dataclasses import dataclass
from pathlib import Path

from .cri_model import DEFAULT_SOCKET

PATH = Path("/etc/casemate/engine.json")


@dataclass(frozen=True)
class Settings:
    """`socket` is the engine's CRI socket, `default_handler` the runtime of pods that name none."""

    socket: str = DEFAULT_SOCKET
    default_handler: str = "microvm"


def load(path: Path = PATH) -> Settings:
    """The settings of this host; the defaults where the file is not there yet."""
    try:
        values = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return Settings()
    return Settings(**{key: values[key] for key in ("socket", "default_handler") if key in values})
