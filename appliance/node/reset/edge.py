"""EdgeCore: its service, its pods, its files and its broker. Used by `edge_provider: none` as well as by reset."""

from __future__ import annotations

from pathlib import Path

from appliance.node.edge import settings
from appliance.node.reset import base, packages, records
from appliance.node.reset.engine import remove_cgroup
from appliance.node.reset.remover import Remover, ResetError, remove_if_empty, run, unit_known

BROKER = "mosquitto"
BROKER_STATE = (Path("/var/lib/mosquitto"), Path("/var/log/mosquitto"))
# kubelet code makes one in each hierarchy, or below the slice of the same name
CGROUPS = ("kubepods", "*/kubepods", "kubepods.slice", "*/kubepods.slice")


def reset(remover: Remover, options: dict) -> None:
    """Leave the cloud and remove what role edge and EdgeCore made. The cloud keeps its record of the node."""
    if not (settings.DECLARED.exists() or settings.STATE.exists() or settings.RELEASES.exists()):
        return
    declared = settings.load()
    joined = settings.CERTIFICATE.exists()
    ours = [path for path in records.files() if path in (settings.UNIT_FILE, settings.BROKER_FILE)]
    if settings.UNIT_FILE in ours:
        remover.unit(settings.UNIT)
        if not remover.check:
            run("systemctl", "reset-failed", settings.UNIT, check=False)
        _pods(remover)
    for directory in _created():
        remover.tree(directory)
    for path in (settings.DMI.parent, settings.TOKEN):
        remover.tree(path)
    for path in ours:
        base.put_back(remover, path)
    if not remover.check:
        run("systemctl", "daemon-reload")
        for group in (p for pattern in CGROUPS for p in Path("/sys/fs/cgroup").glob(pattern)):
            remove_cgroup(group)
    _broker(remover, settings.BROKER_FILE in ours)
    if not remover.check:
        records.forget_files([settings.UNIT_FILE, settings.BROKER_FILE, settings.DECLARED, settings.TOKEN])
    for path in (settings.DECLARED, settings.RELEASES, settings.STATE):
        remover.tree(path)
    if declared and joined:
        remover.kept.append(f"the cloud's record of this node (there: kubectl delete node {declared.node_name})")


def _created() -> list[Path]:
    """The directories that EdgeCore's installation made, those that hold others first."""
    record = settings.STATE / "created"
    return sorted({Path(line) for line in record.read_text().splitlines()}) if record.exists() else []


def _pods(remover: Remover) -> None:
    if not unit_known("containerd.service"):
        return
    try:
        from appliance.node.edge import pods
        from appliance.node.pods import settings as engine
        from appliance.node.pods.cri import Cri, CriError
    except ImportError:  # without the packages that talk to the engine nothing was ever started
        return
    if not remover.check:
        run("systemctl", "start", "containerd.service", check=False)
    elif run("systemctl", "is-active", "containerd.service", check=False).strip() != "active":
        return
    try:
        names = [sandbox.metadata.name for sandbox in pods.sandboxes(Cri(engine.load().socket))]
        if names and not remover.check:
            pods.remove(static_only=False)
    except CriError as error:
        raise ResetError(f"EdgeCore's pods cannot be removed: {error}") from None
    remover.removed += [f"EdgeCore's pod {name}" for name in names]


def _broker(remover: Remover, configured: bool) -> None:
    """Remove mosquitto where it came with us; one that was there before reads its own configuration again."""
    if BROKER in records.packages_installed():
        remover.unit(settings.BROKER_UNIT)
        packages.purge(remover, {BROKER})
        if BROKER in packages.present() and not remover.check:
            return  # another package needs it
        for directory in BROKER_STATE:
            remover.tree(directory)
        if not remover.check:
            records.forget_package(BROKER)
            for directory in (settings.BROKER_FILE.parent, settings.BROKER_FILE.parent.parent):
                remove_if_empty(directory)
    elif configured and not remover.check:
        run("systemctl", "try-restart", settings.BROKER_UNIT, check=False)
