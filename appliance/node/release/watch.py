"""Is the host as well as it was? What a release is measured by before it is committed."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from appliance.node.health import services
from appliance.node.health.host import Host

SERVICES = ("containerd", "prometheus", "prometheus-node-exporter", "mosquitto", "edgecore")
"""Those whose programs or configuration a release brings, besides the pods' runners."""
SETTLE_SECONDS = 90
"""How long after the last change everything may take until it is well."""
TEMPLATES_SECONDS = 900
"""How long making the microVMs' templates may take."""
_LOOK_SECONDS = 2
_CLOCK_SECONDS = 30  # more than a clock is corrected by in small steps


class GateError(Exception):
    """The host is not as well as it was; the message says what is wrong."""


def boot() -> str:
    """The kernel's name of this boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def pods() -> dict[str, dict[str, Any]]:
    """Every running pod: {"NAMESPACE/NAME": {"ready": bool, "processes": {container: [PID, start time in ticks]}}}."""
    from appliance.node.pods import settings
    from appliance.node.pods.cri import Cri
    from appliance.node.pods.cri_model import state_name
    from appliance.node.pods.listing import list_pods

    configured = settings.load()
    cri = Cri(configured.socket)
    running: dict[str, dict[str, list[int]]] = {}
    for container in cri.containers():
        if state_name(container) == "running":
            told = json.loads(cri.call("ContainerStatus", container_id=container.id, verbose=True).info["info"])
            running.setdefault(container.pod_sandbox_id, {})[container.metadata.name] = _process(told["pid"])
    return {
        f"{pod['namespace']}/{pod['name']}": {"ready": pod["ready"], "processes": running.get(pod["sandbox_id"], {})}
        for pod in list_pods(cri, configured)
        if pod["state"] not in ("succeeded", "failed")
    }


def failing() -> list[str]:
    """The checks of `doctor` that fail now with severity error, by id."""
    from appliance.node.health import checks, registry, settings  # noqa: F401 - checks registers itself
    from appliance.node.health.cli import CONFIG

    found = registry.run("doctor", Host(), settings.from_file(CONFIG))
    return sorted(one["id"] for one in found if not one["ok"] and one["severity"] == "error")


def gate(before: Mapping[str, Mapping], failed: Collection[str], grace: float, report: Callable[[str], None],
         rolled: Collection[str] = ()) -> None:  # fmt: skip
    """Wait until the host is as well as it was, and `grace` seconds more that it stays so.

    Templates that are being made meanwhile are waited for, and are no illness before.
    `before` is what `pods` said, `failed` what `failing` said, `rolled` the pods that were meant to get new processes.
    Raises GateError.
    """
    report("waiting until everything is well")
    until = time.monotonic() + SETTLE_SECONDS
    while trouble := _trouble(before, failed, rolled, making=_makes_templates()):
        if time.monotonic() > until:
            raise GateError(f"not well within {SETTLE_SECONDS} s: {trouble}")
        time.sleep(_LOOK_SECONDS)
    report(f"well; watching it for {grace:.0f} s")
    until = time.monotonic() + grace
    starts = _starts()
    while time.monotonic() < until:
        time.sleep(min(_LOOK_SECONDS, grace))
        if trouble := _trouble(before, failed, rolled, making=_makes_templates()):
            raise GateError(f"not well any more: {trouble}")
        if again := [name for name, stamp in _starts().items() if stamp != starts.get(name)]:
            raise GateError(f"{again[0]} ended and was started again")
    if _makes_templates():
        report("waiting for the microVMs' templates")
    until = time.monotonic() + TEMPLATES_SECONDS
    while _makes_templates() and time.monotonic() < until:
        time.sleep(_LOOK_SECONDS)
    if trouble := _trouble(before, failed, rolled, making=False):
        raise GateError(f"not well in the end: {trouble}")


def restart_what_changed(since: float) -> None:
    """Restart each service and runner that was started since then, or does not run, or runs a replaced program.

    `since` is seconds of `time.monotonic`, which is systemd's clock too, and no clock that is set changes.
    """
    _systemctl("daemon-reload")
    for name in SERVICES:
        state = _show(name)
        if state["LoadState"] != "loaded" or state["UnitFileState"] != "enabled":
            continue
        if state["ActiveState"] != "active" or _began(state) >= since or services.is_replaced(Host(), state["MainPID"]):
            _systemctl("reset-failed", name)
            _systemctl("restart", name)
    runners = _systemctl("list-units", "--plain", "--no-legend", "--state=active,activating", "casemate-pod@*")
    units = [line.split()[0] for line in runners.splitlines() if line.strip()]
    if changed := [unit for unit in units if _began(_show(unit)) >= since]:
        _systemctl("restart", "--no-block", *changed)
    _systemctl("start", "--no-block", "casemate-pods.service", "casemate-microvm-prepare.service")


def follow_clock(since: float, monotonic: float) -> None:
    """Restart Prometheus where the clock was set since that moment, given by both clocks.

    It stamps samples by the time at which it began, counted on, and takes none once the clock is behind that (seen with
    2.53).
    """
    if abs((time.time() - since) - (time.monotonic() - monotonic)) > _CLOCK_SECONDS:
        _systemctl("try-restart", "prometheus")


def reread_units() -> None:
    """Have systemd read its units again; nothing is started."""
    _systemctl("daemon-reload")


def _makes_templates() -> bool:
    return _show("casemate-microvm-prepare.service")["ActiveState"] == "activating"


def _trouble(before: Mapping[str, Mapping], failed: Collection[str], rolled: Collection[str], *, making: bool) -> str:
    """The first thing that is not as well as it was; "" where all is. `making`: templates are about to be there."""
    try:
        now = pods()
    except Exception as error:  # whatever it is that the engine does not answer
        return f"the engine does not answer: {error}"
    for name, pod in before.items():
        there = now.get(name, {"ready": False, "processes": {}})
        if pod["ready"] and not there["ready"]:
            return f"pod {name} is not ready"
        if name in rolled:
            continue
        for container, process in pod["processes"].items():
            if there["processes"].get(container) != process:
                return f"container {container} of pod {name} was started again"
    new = sorted(set(failing()) - set(failed) - ({"microvm"} if making else set()))
    return f"doctor finds {', '.join(new)}" if new else ""


def _process(pid: int) -> list[int]:
    """A process as nobody else is it: its id and when it began."""
    try:
        return [pid, int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])]
    except OSError:
        return [pid, 0]


def _starts() -> dict[str, str]:
    """When each of the services that are up was started."""
    states = {name: _show(name) for name in SERVICES}
    return {name: state["ActiveEnterTimestampMonotonic"] for name, state in states.items()
            if state["LoadState"] == "loaded" and state["UnitFileState"] == "enabled"}  # fmt: skip


def _show(unit: str) -> dict[str, str]:
    wanted = ("LoadState", "ActiveState", "UnitFileState", "MainPID", "ActiveEnterTimestampMonotonic")
    told = _systemctl("show", f"--property={','.join(wanted)}", unit)
    return dict.fromkeys(wanted, "") | dict(line.split("=", 1) for line in told.splitlines() if "=" in line)


def _began(state: Mapping[str, str]) -> float:
    return int(state["ActiveEnterTimestampMonotonic"] or 0) / 1e6


def _systemctl(*words: str) -> str:
    return subprocess.run(["systemctl", *words], capture_output=True, text=True, check=False).stdout
