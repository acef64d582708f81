"""What runs on a deployed host, and whether it is well."""

from __future__ import annotations

import json
from collections.abc import Iterator
from urllib.parse import urlsplit

from appliance.node.health import programs, sockets
from appliance.node.health.host import Host
from appliance.node.health.registry import Finding, check
from appliance.node.health.settings import Settings


@check("deployed", "doctor")
def deployed(host: Host, settings: Settings) -> Finding:
    """release.json is written by a deploy that came to its end."""
    release = programs.release(host)
    if release is None:
        return Finding(
            ok=False,
            evidence="/etc/casemate/release.json is missing or not JSON",
            cause="nothing was deployed here, or a deploy did not come to its end",
            cure="appliance deploy",
        )
    return Finding(ok=True, evidence=f"release {release.get('release', 'unknown')}")


@check("unit", "doctor")
def units(host: Host, settings: Settings) -> Iterator[Finding]:
    """One finding a service that the deploy set up."""
    for name in settings.units:
        state = programs.unit(host, name)
        active, short = state.get("ActiveState", "unknown"), name.removesuffix(".service")
        if active == "active":
            yield Finding(ok=True, of=short, evidence=f"{name} is active ({state.get('SubState', '')})")
        elif state.get("LoadState") == "not-found":
            yield Finding(
                ok=False,
                of=short,
                evidence=f"{name} does not exist",
                cause="its package or unit file is not installed",
                cure="appliance deploy",
            )
        else:
            yield Finding(
                ok=False,
                of=short,
                evidence=f"{name} is {active} ({state.get('SubState', '')}, last result: {state.get('Result', '')})",
                cause="the service stopped, failed or was never started",
                cure=f"journalctl -u {name} -n 50 tells why; then systemctl restart {name}",
            )


@check("failed-units", "doctor")
def failed_units(host: Host, settings: Settings) -> Finding:
    """Anything else that systemd could not start."""
    asked = host.run(["systemctl", "list-units", "--failed", "--plain", "--no-legend", "--full"])
    names = [line.split()[0] for line in asked.out.splitlines() if line.strip()]
    if names:
        return Finding(
            ok=False,
            severity="warning",
            evidence=", ".join(names),
            cause="these units failed",
            cure=f"systemctl status {names[0]}; systemctl reset-failed {names[0]} once it no longer matters",
        )
    if asked.code != 0:
        return Finding(
            ok=False,
            severity="warning",
            evidence=asked.message,
            cause="systemd does not answer",
            cure="systemctl status",
        )
    return Finding(ok=True, evidence="none")


@check("engine", "doctor")
def engine(host: Host, settings: Settings) -> Finding:
    """The engine answers on its socket, not merely runs."""
    version, trouble = programs.engine_version(host, settings)
    if version:
        return Finding(ok=True, evidence=f"containerd {version} answers at {settings.engine_socket}")
    return Finding(
        ok=False,
        evidence=trouble,
        cause=f"containerd does not answer at {settings.engine_socket}",
        cure="journalctl -u containerd -n 50; systemctl restart containerd (running pods stay)",
    )


@check("microvm", "doctor")
def microvm(host: Host, settings: Settings) -> Iterator[Finding]:
    """The default runtime can start guests: image and templates are made and current; and those that run are, too."""
    try:
        status = programs.microvm(host, settings)
    except programs.ProgramError as error:
        yield Finding(
            ok=False,
            evidence=str(error),
            cause="the microVM runtime cannot tell its state",
            cure="appliance deploy",
        )
        return
    if status is None:
        yield Finding(
            ok=False,
            evidence=f"no {settings.bin}/casemate-microvm",
            cause="the node programs are not installed",
            cure="appliance deploy",
        )
        return
    if status.get("missing"):
        reasons = [f"template {t['size']}: {t['why_not']}" for t in status.get("templates", []) if not t["ready"]]
        yield Finding(
            ok=False,
            evidence="; ".join(["missing or no longer current: " + ", ".join(status["missing"]), *reasons]),
            cause="not made yet, or kernel, QEMU, packages or settings changed since: pods start slowly or not at all",
            cure="systemctl start casemate-microvm-prepare; journalctl -u casemate-microvm-prepare if it fails",
        )
    else:
        evidence = f"image and templates are current, guests run with {status.get('accelerator')}"
        yield Finding(ok=True, evidence=evidence)
    if outdated := [one["id"] for one in status.get("sandboxes", []) if one.get("outdated")]:
        yield Finding(
            ok=False,
            severity="info",
            of="outdated",
            evidence=f"{', '.join(_names(host, settings, outdated))}: of an older QEMU or guest than is installed",
            cause="microVMs that run are left alone when QEMU or the guest is upgraded",
            cure="they get the new at their next start; appliance upgrade --lock FILE --restart-pods restarts them now",
        )


def _names(host: Host, settings: Settings, sandboxes: list[str]) -> list[str]:
    """The pods of these sandboxes."""
    try:
        known = {pod.get("sandbox_id"): pod["name"] for pod in programs.pods(host, settings) or []}
    except programs.ProgramError:
        known = {}
    return [known.get(one, one[:12]) for one in sandboxes]


@check("manifest", "doctor")
def manifests(host: Host, settings: Settings) -> Iterator[Finding]:
    """One finding a manifest that cannot be run."""
    try:
        wrong = programs.manifests(host, settings)
    except programs.ProgramError as error:
        yield Finding(
            ok=False,
            evidence=str(error),
            cause="the manifests cannot be read",
            cure="appliance deploy",
        )
        return
    for manifest in wrong or []:
        name = manifest["file"].rpartition("/")[2]
        yield Finding(
            ok=False,
            of=name if name.isprintable() else repr(name),
            evidence="; ".join(manifest["problems"]),
            cause=f"{manifest['file']!r} declares no pod that can be run; a pod that it declared before goes on",
            cure="correct the file or remove it; docs/pods.md lists what a manifest may say",
        )
    if wrong == []:
        yield Finding(ok=True, evidence="all can be run")


@check("pod", "doctor")
def pods(host: Host, settings: Settings) -> Iterator[Finding]:
    """One finding a pod."""
    try:
        known = programs.pods(host, settings)
    except programs.ProgramError as error:
        yield Finding(
            ok=False,
            evidence=str(error),
            cause="the pods cannot be listed",
            cure="look at the finding on the engine; casemate-pod list on the host says more",
        )
        return
    for pod in known or []:
        if pod.get("ready"):
            yield Finding(ok=True, of=pod["name"], evidence=f"ready at {pod.get('ip') or 'no address'}")
            continue
        if pod.get("state") == "succeeded":
            yield Finding(ok=True, of=pod["name"], evidence="has finished")
            continue
        yield Finding(
            ok=False,
            of=pod["name"],
            evidence=f"{pod.get('state') or 'unknown state'}, {pod.get('restarts', 0)} restarts",
            cause=pod.get("reason") or "its containers are not all running and ready",
            cure=f"journalctl -u casemate-pod@{pod['name']} -n 50; logs are below /var/log/pods",
        )


@check("prometheus", "doctor")
def prometheus(host: Host, settings: Settings) -> Iterator[Finding]:
    """One finding a scrape target; one if Prometheus itself is silent."""
    if not settings.prometheus_url:
        return
    url = f"{settings.prometheus_url}/api/v1/targets?state=active"
    try:
        targets = json.loads(host.fetch(url))["data"]["activeTargets"]
    except (OSError, ValueError, KeyError) as error:
        yield Finding(
            ok=False,
            evidence=f"{url}: {error}",
            cause="Prometheus does not answer",
            cure="journalctl -u prometheus -n 50; systemctl restart prometheus",
        )
        return
    for target in targets:
        job = target["labels"].get("job", "unknown")
        state = target.get("health")
        if state == "down" and "out of bounds" in target.get("lastError", ""):
            yield Finding(
                ok=False,
                of=job,
                evidence=f"{target['scrapeUrl']}: {target['lastError']}",
                cause="this host's clock was set back, and Prometheus goes by where it was before",
                cure="systemctl restart prometheus; see that the clock is right and stays so (timedatectl)",
            )
        elif state == "down":
            yield Finding(
                ok=False,
                of=job,
                evidence=f"{target['scrapeUrl']}: {target.get('lastError', '')}",
                cause=f"Prometheus cannot scrape {job}",
                cure="see whether that service runs and listens there (ss -ltnp)",
            )
        else:
            # "unknown" is a target that was not scraped yet, in the first seconds after a start.
            yield Finding(ok=True, of=job, evidence=f"{target['scrapeUrl']} {state}")


@check("exposed", "doctor")
def exposed(host: Host, settings: Settings) -> Iterator[Finding]:
    """Services without a password listen where they were told, and nowhere wider."""
    expected = {
        urlsplit(url).port: (urlsplit(url).hostname, name)
        for url, name in ((settings.prometheus_url, "Prometheus"), (settings.node_exporter_url, "the node exporter"))
        if url
    }
    expected.update({one["port"]: (one.get("address"), one["for"]) for one in settings.ports})
    for listener in sockets.listeners(host, set(expected)):
        address, name = expected[listener.port]
        if listener.address in sockets.WILDCARDS and address not in sockets.WILDCARDS:
            yield Finding(
                ok=False,
                of=str(listener.port),
                evidence=f"{listener.who} listens on {listener.address}:{listener.port}",
                cause=f"{name} was to listen on {address} only, and asks nobody for a password",
                cure="appliance deploy sets the address again; look for local changes below /etc/default",
            )
        else:
            yield Finding(ok=True, of=str(listener.port), evidence=f"{name} listens on {listener.address}")
