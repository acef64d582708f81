"""What EdgeCore on this host is doing: is it a member of its cloud, does it reach it, and why does it not run."""

from __future__ import annotations

import binascii
import hashlib
import json
import re
import time

from appliance.node.health.host import Host

DECLARED = "/etc/casemate/edge.json"
APPLIED = "/var/lib/casemate/edge/applied.json"
CONFIG = "/etc/kubeedge/config/edgecore.yaml"
CA = "/etc/kubeedge/ca/rootCA.crt"
CERTIFICATE = "/etc/kubeedge/certs/server.crt"
UNIT = "edgecore.service"
ENGINE = "containerd.service"

_ESTABLISHED = "01"
# EdgeCore's own words, at each attempt
_CONNECTED, _FAILED = "connect to cloud access successful", "connection failed"
_PROPERTIES = "LoadState,ActiveState,SubState,Result,ExecMainStatus,NRestarts,MainPID,ActiveEnterTimestamp"


def declared(host: Host) -> dict | None:
    """What role edge wrote; None where this host has no edge provider."""
    return _json(host, DECLARED)


def applied(host: Host) -> dict:
    """What EdgeCore last worked with; {} before it ever did."""
    return _json(host, APPLIED) or {}


def facts(host: Host) -> dict:
    """For the roles: `present` (anything of EdgeCore's), the `release` in use, `ca` and `node` of its membership."""
    link = host.path("/usr/lib/casemate/edge/current")
    member = host.path(CERTIFICATE).exists() and host.path(CA).exists()
    present = any(host.path(one).exists() for one in (DECLARED, "/usr/lib/casemate/edge", "/var/lib/casemate/edge"))
    return {
        "present": present,
        "release": link.readlink().name if link.is_symlink() and link.exists() else "",
        "ca": ca_hash(host.read(CA)) if member else "",
        "node": applied(host).get("node", ""),
    }


def ca_hash(pem: str) -> str:
    """SHA-256 of the first certificate of a PEM text in DER form, in hex; "" where there is none."""
    found = re.search(r"-----BEGIN CERTIFICATE-----(.+?)-----END", pem, re.DOTALL)
    try:
        return hashlib.sha256(binascii.a2b_base64(found.group(1))).hexdigest() if found else ""
    except binascii.Error:
        return ""


def unit(host: Host) -> dict[str, str]:
    """systemd's properties of EdgeCore's unit."""
    shown = host.run(["systemctl", "show", "--timestamp=unix", f"--property={_PROPERTIES}", UNIT])
    return dict(line.split("=", 1) for line in shown.out.splitlines() if "=" in line)


def connected(host: Host, cloud: str) -> bool:
    """Whether EdgeCore has a TCP connection to its cloud's port now."""
    pid = unit(host).get("MainPID", "0")
    wanted = int(cloud.rpartition(":")[2])
    inodes = set()
    for table in ("tcp", "tcp6"):
        for line in host.read(f"/proc/net/{table}").splitlines()[1:]:
            fields = line.split()
            if fields[3] == _ESTABLISHED and int(fields[2].rpartition(":")[2], 16) == wanted:
                inodes.add(f"socket:[{fields[9]}]")
    if not inodes:
        return False
    try:
        return any(str(one.readlink()) in inodes for one in host.path(f"/proc/{pid}/fd").iterdir())
    except OSError:  # it ended meanwhile
        return False


def away_since(host: Host) -> str:
    """Since when the cloud is away, as a text: from EdgeCore's own log, else from its start."""
    argv = ["journalctl", f"_SYSTEMD_UNIT={UNIT}", "-o", "short-unix", "--no-pager", "-n", "20000"]
    log = host.run(argv, timeout=20).out.splitlines()
    since = None
    for line in log:
        if _CONNECTED in line:
            since = None
        elif since is None and _FAILED in line:
            since = _stamp(line.split(".", 1)[0])
    if since is None:
        since = _stamp(unit(host).get("ActiveEnterTimestamp", "")[1:])
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(since)) if since else "its start"


def explain(host: Host, wanted: dict) -> tuple[str, str]:
    """Cause and cure of an EdgeCore that does not stay up; `wanted` as `declared` returns it."""
    state = _not_running(host)
    lines = _last_words(host)
    log = "\n".join(lines)
    code = state.get("ExecMainStatus", "")
    last = "; ".join([line.strip() for line in lines if _telling(line)][-2:]) or "it said nothing"
    if host.run(["systemctl", "is-active", ENGINE]).out.strip() != "active":
        return (
            "the engine is missing: containerd does not run, and EdgeCore ends at once (exit code 2, nil pointer)",
            "systemctl start containerd; journalctl -u containerd -n 50 if it does not stay up. EdgeCore follows",
        )
    if "kubelet should not running" in log or "kube-proxy should not running" in log:
        return (
            "a kubelet or kube-proxy runs on this host, and EdgeCore refuses to run beside one",
            "take this host out of that cluster (its node agent and EdgeCore cannot share an engine)",
        )
    if not host.path(CERTIFICATE).exists():
        return (
            f"it never joined: it could not get its certificate from https://{wanted['cloud_https']} ({last})",
            "make that address reachable and give a token of today (on the cloud's side: keadm gettoken) in "
            "edge_token; then appliance deploy. Until the first join EdgeCore cannot start without its cloud",
        )
    if "Failed to initialize CSINode" in log or code == "255":
        return (
            "it has its certificate, but its cloud never registered this node (exit code 255 after half a minute)",
            f"make {wanted['cloud']} reachable from here; on the cloud's side look whether the node is refused "
            "(kubectl get node, CloudCore's log); EdgeCore tries on by itself",
        )
    return (
        f"it ended with exit code {code}: {last}",
        f"journalctl -u {UNIT} -n 80 tells more; appliance deploy brings configuration and binary back",
    )


def _not_running(host: Host) -> dict[str, str]:
    """The unit's properties when it does not run, if that is soon: how it ended is forgotten as it starts again."""
    for _ in range(15):
        state = unit(host)
        if state.get("MainPID", "0") == "0":
            break
        time.sleep(0.2)
    return state


def _last_words(host: Host) -> list[str]:
    """What EdgeCore said in its last two runs, without systemd's about it: before, it may have failed otherwise."""
    argv = ["journalctl", "-o", "json", "--output-fields=MESSAGE,_SYSTEMD_INVOCATION_ID", f"_SYSTEMD_UNIT={UNIT}",
            "--no-pager", "-n", "80"]  # fmt: skip
    said = [json.loads(line) for line in host.run(argv, timeout=20).out.splitlines()]
    runs = list(dict.fromkeys(one.get("_SYSTEMD_INVOCATION_ID") for one in said))[-2:]
    return [str(one.get("MESSAGE", "")) for one in said if one.get("_SYSTEMD_INVOCATION_ID") in runs]


def _telling(line: str) -> bool:
    return bool(re.match(r"[EF]\d{4} |panic|Error|error", line.strip())) or "fail" in line.lower()


def _stamp(text: str) -> float | None:
    return float(text) if text.isdigit() else None


def _json(host: Host, path: str) -> dict | None:
    try:
        given = json.loads(host.read(path))
    except ValueError:
        return None
    return given if isinstance(given, dict) else None
