"""Files on the admin's machine, written so that a reader sees the old one or the new one whole."""

import os
from pathlib import Path

from appliance.errors import CasemateError


def state_directory() -> Path:
    """Where this user's runs leave what later ones look at."""
    return Path(os.environ.get("XDG_STATE_HOME", Path.home() / ".local/state")) / "casemate"


def replace(path: Path, data: bytes) -> None:
    """Put `data` in the place of a file at once. Raises CasemateError where it cannot be written."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with new.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except OSError as error:
        new.unlink(missing_ok=True)
        raise CasemateError(f"cannot be written: {error.strerror}", place=str(path)) from None
