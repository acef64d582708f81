"""The edge core: may this host join its cloud, and is it a member that runs well."""

from __future__ import annotations

import re
import ssl
import time
from collections.abc import Iterator

from appliance.node.health import edgecore, programs, sockets
from appliance.node.health.host import Host
from appliance.node.health.registry import Finding, check
from appliance.node.health.settings import Settings

CLOCK_TOLERANCE_SECONDS = 300
NODE_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
CERTIFICATE_DAYS = 7
KUBELET_PORT = 10350
GET_TOKEN = "on the cloud's side: keadm gettoken"  # noqa: S105 - says how to get one


@check("edge", "preflight")
def joining(host: Host, settings: Settings) -> Iterator[Finding]:
    """Everything that a join needs. Nothing to see where no edge provider is wanted."""
    wanted = settings.edge
    if not wanted:
        return
    wanted = {**wanted, "node": wanted["node"] or host.hostname()}
    there = edgecore.facts(host)
    # a member has what it needs, and runs without its cloud
    member = bool(there["ca"]) and wanted["token_ca"] in ("", there["ca"]) and there["node"] in ("", wanted["node"])
    yield _name(wanted["node"])
    yield _token(host, wanted, there, member)
    yield _others(host, there)
    if wanted["broker"]:
        yield _listener(host, wanted["broker"])
    yield from _cloud(host, settings, {**wanted, "member": member, "known": there["ca"]})


def _name(node: str) -> Finding:
    if len(node) <= 253 and NODE_NAME.fullmatch(node):
        return Finding(ok=True, of="node-name", evidence=node)
    return Finding(
        ok=False,
        of="node-name",
        evidence=repr(node),
        cause="a node's name in Kubernetes: lower-case letters, digits, - and ., at most 253 of them",
        cure="set edge_node_name, or give the host such a name (hostnamectl set-hostname NAME)",
    )


def _token(host: Host, wanted: dict, there: dict, member: bool) -> Finding:
    if member:
        return Finding(ok=True, of="token", evidence="not needed: this host has its certificate")
    trouble, cause = wanted["token_problem"], "the token is not of the form SHA256-OF-THE-CA.JWT"
    if not trouble and not wanted["token_ca"]:
        trouble, cause = "none is given", "a host joins its cloud with a token"
    elif not trouble and wanted["ca"] and wanted["ca"] != wanted["token_ca"]:
        trouble = f"the token is for the CA {wanted['token_ca'][:16]}..., edge_cloud_ca_hash is {wanted['ca'][:16]}..."
        cause = "token and CA hash are of two clouds, or one of them is old"
    elif not trouble and 0 < wanted["token_expires"] < host.now():
        when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(wanted["token_expires"]))
        trouble, cause = f"it expired at {when}", "CloudCore makes a new token every half day, and the old ones end"
    if not trouble:
        return Finding(ok=True, of="token", evidence=f"for the CA {wanted['token_ca'][:16]}...")
    return Finding(
        ok=False,
        of="token",
        evidence=trouble,
        cause=cause,
        cure=f"set edge_token (encrypted) or edge_token_file to a token of today; {GET_TOKEN}",
    )


def _others(host: Host, there: dict) -> Finding:
    """A kubelet, or an EdgeCore that keadm installed, would fight with ours over the engine's pods."""
    running = {
        name
        for name in (host.read(f"/proc/{one.name}/comm").strip() for one in host.path("/proc").glob("[0-9]*"))
        if name in ("kubelet", "kube-proxy")
    }
    if running:
        return Finding(
            ok=False,
            of="kubelet",
            evidence=f"running: {', '.join(sorted(running))}",
            cause="EdgeCore refuses to run beside a kubelet, and both would manage the same engine",
            cure="take this host out of that cluster (kubeadm reset), or out of this inventory's edge hosts",
        )
    if not there["present"] and (host.path("/etc/kubeedge").exists() or host.path("/usr/local/bin/edgecore").exists()):
        return Finding(
            ok=False,
            of="kubelet",
            evidence="/etc/kubeedge or /usr/local/bin/edgecore is there, and not from Casemate",
            cause="another EdgeCore was installed on this host",
            cure="remove it (keadm reset edge), and /etc/kubeedge and /usr/local/bin/edgecore if they stay",
        )
    return Finding(ok=True, of="kubelet", evidence="neither a kubelet nor another EdgeCore")


def _listener(host: Host, address: str) -> Finding:
    """A broker that was here before and listens there already would not start with our listener as well."""
    port = address.rpartition(":")[2]
    files = [host.path("/etc/mosquitto/mosquitto.conf"), *host.path("/etc/mosquitto/conf.d").glob("*.conf")]
    for file in files:
        name = "/" + str(file.relative_to(host.root))
        if file.name != "casemate.conf" and re.search(
            rf"^\s*(listener|port)\s+{port}\b", host.read(name), re.MULTILINE
        ):
            return Finding(
                ok=False,
                of="broker",
                evidence=f"{name} listens on port {port}",
                cause="mosquitto is in use on this host, with a listener of its own",
                cure="edge_broker: external, with edge_broker_address where it listens, or another port for ours",
            )
    return Finding(ok=True, of="broker", evidence=f"no other listener on port {port}")


def _cloud(host: Host, settings: Settings, wanted: dict) -> Iterator[Finding]:
    """CloudCore: reachable, with the CA that the token names, our clock's time, and no node of this name."""
    member = wanted["member"]
    for port, what in ((wanted["https_port"], "certificates"), (wanted["port"], "messages")):
        trouble = host.connect(wanted["address"], port, settings.network_timeout)
        if trouble:
            yield Finding(
                ok=False,
                of="cloud",
                severity="warning" if member else "error",
                evidence=f"{trouble} (CloudCore's port for {what})",
                cause="the cloud is away" if member else "a host can join only where it reaches its CloudCore",
                cure="check the route to it, its firewall, edge_cloud_address and the ports; "
                + ("pods go on running" if member else "nothing was changed on this host"),
            )
            return
    base = f"https://{wanted['address']}:{wanted['https_port']}"
    try:
        certificate = host.ask_unverified(f"{base}/ca.crt", settings.network_timeout)
    except OSError as error:
        yield Finding(
            ok=False,
            of="cloud",
            severity="warning" if member else "error",
            evidence=f"{base}/ca.crt: {error}",
            cause="what answers there does not answer as CloudCore does",
            cure="check edge_cloud_address and edge_cloud_https_port, and CloudCore's log",
        )
        return
    yield Finding(ok=True, of="cloud", evidence=f"CloudCore answers at {base}")
    yield _ca(wanted["token_ca"] or wanted["ca"] or wanted["known"], certificate.sha256, member)
    if certificate.date:
        yield _clock(host, certificate.date, member)
    if not member:
        yield _free(host, settings, base, wanted["node"])


def _ca(pinned: str, found: str, member: bool) -> Finding:
    if pinned in ("", found):
        return Finding(ok=True, of="ca", evidence=f"{found[:16]}...")
    return Finding(
        ok=False,
        of="ca",
        severity="warning" if member else "error",
        evidence=f"CloudCore's CA has the hash {found}, expected is {pinned}",
        cause="another cloud answers at this address, its CA was replaced, or somebody is in between",
        cure=f"find out which; if this cloud is the right one, take a new token ({GET_TOKEN})",
    )


def _clock(host: Host, theirs: float, member: bool) -> Finding:
    off = host.now() - theirs
    if abs(off) <= CLOCK_TOLERANCE_SECONDS:
        return Finding(ok=True, of="clock", evidence=f"{off:+.0f} s from CloudCore's")
    return Finding(
        ok=False,
        of="clock",
        severity="warning" if member else "error",
        evidence=f"{off:+.0f} s from CloudCore's",
        cause="certificates and tokens are judged by the time, and one of the two clocks is wrong",
        cure="timedatectl set-ntp true, or date --utc --set 'YYYY-MM-DD HH:MM:SS'",
    )


def _free(host: Host, settings: Settings, base: str, node: str) -> Finding:
    """CloudCore answers 404 for a node that its cluster does not have."""
    try:
        host.ask_unverified(f"{base}/node/{node}", settings.network_timeout)
    except OSError:  # 404; any other refusal is told by the join itself
        return Finding(ok=True, of="node-free", evidence=f"the cloud has no node {node}")
    return Finding(
        ok=False,
        of="node-free",
        evidence=f"the cloud has a node {node} already",
        cause="another host is this node, or this host was before it was set up anew",
        cure=f"another edge_node_name; or, if it was this host: kubectl delete node {node}",
    )


@check("edge", "doctor")
def edge(host: Host, settings: Settings) -> Iterator[Finding]:
    """EdgeCore's state, and what it must never be."""
    wanted = edgecore.declared(host)
    if wanted is None:
        return
    yield _running(host, wanted)
    if wanted["broker"] == "mosquitto":
        yield _broker(host, wanted)
    yield from _certificate(host)
    yield from _hardened(host)


def _running(host: Host, wanted: dict) -> Finding:
    state = edgecore.unit(host)
    unsteady = state.get("ActiveState") != "active" or not edgecore.applied(host)
    if unsteady or (_loops(state) and not edgecore.connected(host, wanted["cloud"])):
        cause, cure = edgecore.explain(host, wanted)
        return Finding(
            ok=False,
            of="core",
            evidence=f"{edgecore.UNIT} is {state.get('ActiveState', 'unknown')} ({state.get('SubState', '')}), "
            f"{state.get('NRestarts', '0')} restarts",
            cause=cause,
            cure=cure,
        )
    if edgecore.connected(host, wanted["cloud"]):
        return Finding(ok=True, of="core", evidence=f"runs as node {wanted['node_name']}, cloud: connected")
    return Finding(
        ok=False,
        of="core",
        severity="warning",
        evidence=f"runs as node {wanted['node_name']}, cloud: away since {edgecore.away_since(host)}",
        cause=f"EdgeCore has no connection to CloudCore at {wanted['cloud']}; its pods go on",
        cure="check the route to it and CloudCore itself; EdgeCore comes back by itself",
    )


def _loops(state: dict) -> bool:
    """Whether systemd had to start it again: an EdgeCore that was never registered is up for 28 s each time."""
    return int(state.get("NRestarts") or 0) > 0


def _broker(host: Host, wanted: dict) -> Finding:
    state = programs.unit(host, "mosquitto.service")
    if state.get("ActiveState") == "active":
        return Finding(ok=True, of="broker", evidence=f"mosquitto at {wanted['broker_address']}")
    return Finding(
        ok=False,
        of="broker",
        severity="warning",
        evidence=f"mosquitto is {state.get('ActiveState', 'unknown')}",
        cause="devices and EdgeCore's event bus meet at this MQTT broker; pods do not need it",
        cure="journalctl -u mosquitto -n 50; systemctl restart mosquitto",
    )


def _certificate(host: Host) -> Iterator[Finding]:
    """EdgeCore renews it by itself, from its cloud, when most of its time is over. Nothing to see before it joined."""
    asked = host.run(["openssl", "x509", "-noout", "-enddate", "-in", str(host.path(edgecore.CERTIFICATE))])
    name, _, ends = asked.out.strip().partition("=")
    if asked.code != 0 or name != "notAfter":
        return
    left = (ssl.cert_time_to_seconds(ends) - time.time()) / 86400
    if left >= CERTIFICATE_DAYS:
        yield Finding(ok=True, of="certificate", evidence=f"good until {ends}")
        return
    yield Finding(
        ok=False,
        of="certificate",
        severity="error" if left <= 0 else "warning",
        evidence=f"{edgecore.CERTIFICATE} {'ended' if left <= 0 else 'ends'} on {ends}",
        cause="EdgeCore renews it from its cloud, which it has not reached for long; or this host's clock is wrong",
        cure="see that CloudCore is reached and the clock is right; once it ended: a new token, edge_token, and deploy",
    )


def _hardened(host: Host) -> Iterator[Finding]:
    text = host.read(edgecore.CONFIG)
    wrong = []
    if re.search(r"^\s*enableDebuggingHandlers:\s*true\b", text, re.MULTILINE):
        wrong.append(f"enableDebuggingHandlers is on in {edgecore.CONFIG}: port {KUBELET_PORT} runs commands in pods")
    mode = host.path(edgecore.CONFIG).stat().st_mode & 0o777 if text else 0
    if mode & 0o077:
        wrong.append(f"{edgecore.CONFIG} has mode {mode:04o}")
    wrong += [
        f"{one.who} listens on {one.address}:{KUBELET_PORT}"
        for one in sockets.listeners(host, {KUBELET_PORT})
        if not one.address.startswith("127.") and one.address != "::1"
    ]
    if wrong:
        yield Finding(
            ok=False,
            of="hardened",
            evidence="; ".join(wrong),
            cause="somebody changed EdgeCore's configuration; that port asks nobody who he is",
            cure="appliance deploy puts it right",
        )
    else:
        yield Finding(ok=True, of="hardened", evidence="no debugging handlers, loopback only, files for root alone")
