"""What role `edge` declares in /etc/casemate/edge.json, and where everything of EdgeCore's lies."""

import json
from dataclasses import dataclass, field, fields
from pathlib import Path

DECLARED = Path("/etc/casemate/edge.json")
UNIT = "edgecore.service"
UNIT_FILE = Path("/etc/systemd/system") / UNIT
BROKER_UNIT = "mosquitto.service"
BROKER_FILE = Path("/etc/mosquitto/conf.d/casemate.conf")

RELEASES = Path("/usr/lib/casemate/edge")  # ID/edgecore, and the link `current`
STATE = Path("/var/lib/casemate/edge")
APPLIED = STATE / "applied.json"  # what EdgeCore last worked with: see apply.Applied
RUNS_PODS = STATE / "runs-pods"  # there while EdgeCore, not the pod runner, runs what is in PODS
TOKEN = Path("/run/casemate/edge-token")  # there only while a host joins

ETC = Path("/etc/kubeedge")
CONFIG = ETC / "config/edgecore.yaml"
CA = ETC / "ca/rootCA.crt"
CERTIFICATE, KEY = ETC / "certs/server.crt", ETC / "certs/server.key"
NO_PODS = ETC / "manifests"  # EdgeCore's own default for static pods; empty
DATABASE = Path("/var/lib/kubeedge/edgecore.db")
KUBELET = Path("/var/lib/kubelet")
DMI = Path("/run/kubeedge/dmi")
PODS = Path("/etc/casemate/pods")


class EdgeError(Exception):
    """Something that an admin can cure; the text names cause, place and cure."""


@dataclass(frozen=True)
class Artifact:
    """The release's tar archive: `checksum` is sha256:HEX or sha512:HEX, `size` its bytes, 0 where not known."""

    url: str
    checksum: str
    member: str
    size: int = 0

    @property
    def id(self) -> str:
        """The name of the unpacked release: 12 digits of the archive's checksum."""
        return self.checksum.partition(":")[2][:12]


@dataclass(frozen=True)
class Declared:
    """What the inventory wants. Empty texts stand for "not given"; addresses are HOST:PORT."""

    version: str
    artifact: Artifact
    cloud: str
    cloud_https: str
    node_name: str
    cloud_ca: str = ""
    node_ip: str = ""
    node_labels: dict[str, str] = field(default_factory=dict)
    broker: str = "none"  # mosquitto, external or none
    broker_address: str = ""
    metaserver: str = ""
    dmi: bool = False
    static_pods: bool = False
    ready_timeout: int = 120


def load(path: Path = DECLARED) -> Declared | None:
    """What is declared on this host; None where no edge provider is."""
    try:
        values = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    known = {one.name for one in fields(Declared)}
    return Declared(**{k: v for k, v in values.items() if k in known} | {"artifact": Artifact(**values["artifact"])})
