"""Restarting microVM pods one by one, so that each gets the QEMU and the guest that are installed now."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from . import watch

if TYPE_CHECKING:
    from appliance.node.pods.cri import Cri

_READY_SECONDS = 180


def candidates() -> list[str]:
    """The pods that `microvms` restarts, as NAMESPACE/NAME. Raises CriError."""
    from appliance.node.pods import settings
    from appliance.node.pods.cri import Cri

    return [_name(pod) for pod, _ in _microvms(Cri(settings.load().socket))]


def microvms(report: Callable[[str], None]) -> list[str]:
    """Restart each outdated microVM pod that is declared here and ready; the next one once it is ready again.

    One that is not to run again when it has ended (a job) is left to end. Returns them as NAMESPACE/NAME. Raises
    GateError where one does not come back.
    """
    from appliance.node.microvm.sandboxes import Sandbox
    from appliance.node.pods import settings, teardown, units
    from appliance.node.pods.cri import Cri
    from appliance.node.pods.listing import list_pods

    configured = settings.load()
    cri = Cri(configured.socket)
    rolled = []
    for pod, sandbox in _microvms(cri):
        if not Sandbox(pod["sandbox_id"]).is_outdated():
            continue
        report(f"restarting pod {_name(pod)}")
        units.stop(pod["name"])  # its runner would take the end of its containers for a failure
        teardown.stop_sandbox(cri, sandbox)
        units.restart([pod["name"]])
        until = time.monotonic() + _READY_SECONDS
        while not _is_anew(pod, list_pods(cri, configured)):
            if time.monotonic() > until:
                raise watch.GateError(f"pod {_name(pod)} was restarted and is not ready after {_READY_SECONDS} s")
            time.sleep(1)
        rolled.append(_name(pod))
    return rolled


def _microvms(cri: Cri) -> Iterator[tuple[dict, object]]:
    """Each pod that is to be restarted, with its sandbox."""
    from appliance.node.pods import manifest, settings
    from appliance.node.pods.cri_model import sandbox_ready
    from appliance.node.pods.listing import list_pods
    from appliance.node.pods.translate import managed_labels

    declared, _ = manifest.load_directory()
    for pod in list_pods(cri, settings.load()):
        definition = declared.get(pod["name"])
        if pod["runtime"] == "microvm" and pod["ready"] and definition and definition.restart_policy == "Always":
            for sandbox in cri.sandboxes(managed_labels(pod["name"])):
                if sandbox_ready(sandbox):
                    yield pod, sandbox


def _is_anew(before: dict, pods: list[dict]) -> bool:
    return any(
        _name(pod) == _name(before) and pod["ready"] and pod["sandbox_id"] not in ("", before["sandbox_id"])
        for pod in pods
    )


def _name(pod: dict) -> str:
    return f"{pod['namespace']}/{pod['name']}"
