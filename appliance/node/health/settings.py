"""What the checks compare the host with: preflight gets it from the role, doctor and status from health.json."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from pathlib import Path


class SettingsError(ValueError):
    """The parameters or the configuration cannot be used; the message names place and key."""


@dataclass
class Settings:
    """Thresholds and expectations. Sizes in MiB, times in seconds since the epoch."""

    # A machine sold as 1 GiB shows 940 to 1000 MiB: firmware and kernel keep the rest.
    memory_required_mib: int = 900
    memory_recommended_mib: int = 1800
    # Packages, guest image, templates and the first container images; only the first deploy needs it all.
    disk_required_mib: int = 3072
    disk_spare_mib: int = 512
    # Each {"port": 9090, "address": "127.0.0.1", "for": "Prometheus", "setting": "monitoring_prometheus_port",
    #       "owners": ["prometheus.service"]}
    ports: list[dict] = field(default_factory=list)
    # Ports that pods take on the host.
    host_ports: list[int] = field(default_factory=list)
    offline: bool = False
    network_timeout: float = 12.0
    admin_time: float | None = None
    # What a host that is to join a cloud joins: {"address", "port", "https_port", "node", "ca", "token_ca",
    # "token_expires", "token_problem", "broker"}; the token itself never gets here. {} for no edge provider.
    edge: dict = field(default_factory=dict)
    storage_devices: list[str] = field(default_factory=list)
    # Each {"name", "size": such as 10G, may be missing}
    storage_volumes: list[dict] = field(default_factory=list)
    storage_format: bool = False
    units: list[str] = field(default_factory=lambda: ["containerd.service"])
    engine_socket: str = "/run/containerd/containerd.sock"
    prometheus_url: str = ""
    node_exporter_url: str = ""
    bin: str = "/usr/lib/casemate/bin"


def from_json(text: str, place: str) -> Settings:
    """Settings from one JSON object; raises SettingsError on bad JSON, an unknown key or a value of another type."""
    try:
        given = json.loads(text)
    except ValueError as error:
        raise SettingsError(f"{place}: not JSON: {error}") from error
    if not isinstance(given, dict):
        raise SettingsError(f"{place}: expected an object, got {type(given).__name__}")
    settings = Settings()
    known = {one.name for one in fields(Settings)}
    for key, value in given.items():
        if key not in known:
            raise SettingsError(f"{place}: unknown key {key!r}; known are {', '.join(sorted(known))}")
        default = getattr(settings, key)
        wanted = (int, float) if default is None or isinstance(default, float) else type(default)
        # bool is an int in Python, but no number of MiB.
        if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
            raise SettingsError(f"{place}: {key} is {value!r}, expected {getattr(wanted, '__name__', 'a number')}")
        setattr(settings, key, value)
    return settings


def from_file(path: Path) -> Settings:
    """Settings from a file; the defaults where there is none."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return Settings()
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from error
    return from_json(text, str(path))
