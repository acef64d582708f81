"""Liveness and readiness probes of containers."""

import http.client
import socket
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .cri_model import CriError

if TYPE_CHECKING:
    from .cri import Cri


class Probe:
    """One probe and its memory: `success` is its standing verdict, `due` when it runs next (seconds, monotonic)."""

    def __init__(self, definition: dict[str, Any], started: float, success: bool):
        self.definition = definition
        self.success = success
        self.message = "not probed yet"
        self.due = started + _value(definition, "initialDelaySeconds", 0)
        self._streak = 0  # results in a row that contradict the verdict

    def step(self, now: float, look: Callable[[dict[str, Any], float], str]) -> None:
        """Run the probe if it is due. `look` gets the definition and a timeout, and returns what is wrong, or ''."""
        if now < self.due:
            return
        wrong = look(self.definition, _value(self.definition, "timeoutSeconds", 1))
        self.message = wrong
        self.due = now + _value(self.definition, "periodSeconds", 10)
        if (not wrong) == self.success:
            self._streak = 0
            return
        self._streak += 1
        needed = ("failureThreshold", 3) if self.success else ("successThreshold", 1)
        if self._streak >= _value(self.definition, *needed):
            self.success, self._streak = not self.success, 0


def look(definition: dict[str, Any], timeout: float, cri: "Cri", container_id: str, address: str) -> str:
    """Run a probe's action once against a container at `address`; what is wrong, in words, or an empty string."""
    try:
        if definition.get("exec") is not None:
            return _exec(definition["exec"], timeout, cri, container_id)
        if definition.get("httpGet") is not None:
            return _http(definition["httpGet"], timeout, address)
        target = definition["tcpSocket"]
        with socket.create_connection((target.get("host") or address, target["port"]), timeout):
            return ""
    except (OSError, http.client.HTTPException) as error:
        return f"{type(error).__name__}: {error}"


def _exec(action: dict[str, Any], timeout: float, cri: "Cri", container_id: str) -> str:
    try:
        answer = cri.call(
            "ExecSync", timeout + 5, container_id=container_id, cmd=action["command"], timeout=int(timeout)
        )
    except CriError as error:
        return str(error)
    output = (answer.stderr or answer.stdout).decode("utf-8", "replace").strip()
    return "" if answer.exit_code == 0 else f"{action['command'][0]} exited {answer.exit_code}: {output[-200:]}"


def _http(action: dict[str, Any], timeout: float, address: str) -> str:
    host, port = action.get("host") or address, action["port"]
    if action.get("scheme") == "HTTPS":
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # as Kubernetes does: pods sign their own
        connection = http.client.HTTPSConnection(host, port, timeout=timeout, context=context)
    else:
        connection = http.client.HTTPConnection(host, port, timeout=timeout)
    headers = {"User-Agent": "casemate-pod", **{h["name"]: h["value"] for h in action.get("httpHeaders") or []}}
    try:
        connection.request("GET", action.get("path") or "/", headers=headers)
        status = connection.getresponse().status
    finally:
        connection.close()
    return "" if 200 <= status < 400 else f"HTTP {status} from {host}:{port}{action.get('path') or '/'}"


def _value(definition: dict[str, Any], key: str, default: int) -> int:
    value = definition.get(key)
    return default if value is None else value
