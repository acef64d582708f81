"""Restarting microVM pods one by one, so that each gets the QEMU and the guest that are installed now."""

from __future__ import annotations

import time
from collections.abc import Callable

from . import watch

_READY_SECONDS = 180


def microvms(report: Callable[[str], None]) -> list[str]:
    """Restart each microVM pod that is declared here and ready; the next one once it is ready again.

    Returns them as NAMESPACE/NAME. Raises GateError where one does not come back.
    """
    from appliance.node.pods import settings, teardown
    from appliance.node.pods.cri import Cri
    from appliance.node.pods.cri_model import sandbox_ready
    from appliance.node.pods.listing import list_pods
    from appliance.node.pods.translate import managed_labels

    configured = settings.load()
    cri = Cri(configured.socket)
    rolled = []
    for pod in list_pods(cri, configured):
        sandboxes = [one for one in cri.sandboxes(managed_labels(pod["name"])) if sandbox_ready(one)]
        if pod["runtime"] != "microvm" or not pod["ready"] or not sandboxes:
            continue
        name = f"{pod['namespace']}/{pod['name']}"
        report(f"restarting pod {name}")
        teardown.stop_sandbox(cri, sandboxes[0])
        until = time.monotonic() + _READY_SECONDS
        while not _is_anew(name, pod["sandbox_id"], list_pods(cri, configured)):
            if time.monotonic() > until:
                raise watch.GateError(f"pod {name} was restarted and is not ready after {_READY_SECONDS} s")
            time.sleep(1)
        rolled.append(name)
    return rolled


def _is_anew(name: str, sandbox: str, pods: list[dict]) -> bool:
    return any(
        f"{pod['namespace']}/{pod['name']}" == name and pod["ready"] and pod["sandbox_id"] not in ("", sandbox)
        for pod in pods
    )
