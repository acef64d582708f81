"""Pods: runners stopped, then every sandbox taken down by the engine, which undoes its network rules as well."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from appliance.node.reset import records
from appliance.node.reset.remover import Remover, ResetError, remove_if_empty, run, unit_known

LOGS = Path("/var/log/pods")
UNITS = Path("/etc/systemd/system")


def reset(remover: Remover, options: dict) -> None:
    """Remove the pods of the manifests, those in microVMs, and all of them where the engine goes too."""
    units = [p.name for p in records.files() if p.parent == UNITS and p.name.startswith("casemate-pods")]
    for name in sorted(
        units, key=lambda n: not n.endswith(".path")
    ):  # the .path first: it would start the service again
        remover.unit(name)
    for name in _runners():
        remover.do(f"unit {name}", lambda name=name: run("systemctl", "stop", name))
    _sandboxes(remover)
    remover.tree(records.STATE / "migrate")
    if not remover.check:
        run("systemctl", "reset-failed", "casemate-pod*", check=False)
        run("systemctl", "stop", "system-casemate\\x2dpod.slice", "casemate.slice", check=False)
        remove_if_empty(LOGS)


def _runners() -> list[str]:
    listed = run("systemctl", "list-units", "--all", "--plain", "--no-legend", "casemate-pod@*.service", check=False)
    return [line.split()[0] for line in listed.splitlines()]


def _sandboxes(remover: Remover) -> None:
    if not unit_known("containerd.service") or not Path("/etc/casemate/engine.json").exists():
        return  # no engine of ours was ever configured here
    try:
        from appliance.node.pods import settings, teardown, volumes
        from appliance.node.pods.cri import Cri, CriError
    except ImportError:  # without the packages that talk to the engine nothing was ever started
        return
    cri = Cri(settings.load().socket)
    try:
        if not remover.check:
            # an engine that is down cannot take its pods down; one that does not start is told by the next call
            run("systemctl", "start", "containerd.service", check=False)
        elif run("systemctl", "is-active", "containerd.service", check=False).strip() != "active":
            return
        for sandbox in cri.sandboxes():
            ours = sandbox.labels.get("io.casemate.managed-by") or sandbox.runtime_handler in ("", "microvm")
            if ours or "containerd" in records.packages_installed():
                remove = partial(teardown.remove_sandbox, cri, sandbox, with_logs=True)
                remover.do(f"pod {sandbox.metadata.name}", remove)
    except CriError as error:
        raise ResetError(f"pods cannot be removed: {error}") from None
    for own in sorted(volumes.MEMORY_DIRECTORY.glob("*")):  # there are mounts in it
        remover.do(f"volumes of {own.name}", partial(volumes.remove, own.name))
