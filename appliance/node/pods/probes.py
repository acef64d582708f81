"""Startup, liveness and readiness probes of containers."""

import re
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from . import unary
from .cri_model import CriError

if TYPE_CHECKING:
    from .cri import Cri

_GRPC_SERVING = 1
_LINE_BYTES = 4096
_IN_A_PATH = "/%?#[]@!$&'()*+,;=:~"  # what a path may hold as it is, a query and escapes included


class Probe:
    """One probe and its memory: `success` is its standing verdict, `due` when it runs next (seconds, monotonic).

    `failed`: it has failed as often in a row as it may; a startup probe has no other sign of that, as it never stood
    at success.
    """

    def __init__(self, definition: dict[str, Any], started: float, success: bool):
        self.definition = definition
        self.success = success
        self.failed = False
        self.message = "not probed yet"
        self.due = started + _value(definition, "initialDelaySeconds", 0)
        self._in_a_row = 0  # results like the last one
        self._last_wrong = False

    def step(self, now: float, look: Callable[[dict[str, Any], float], str]) -> None:
        """Run the probe if it is due. `look` gets the definition and a timeout, and returns what is wrong, or ''."""
        if now < self.due:
            return
        self.message = look(self.definition, _value(self.definition, "timeoutSeconds", 1))
        self.due = now + _value(self.definition, "periodSeconds", 10)
        wrong = bool(self.message)
        self._in_a_row = self._in_a_row + 1 if wrong == self._last_wrong else 1
        self._last_wrong = wrong
        needed = ("failureThreshold", 3) if wrong else ("successThreshold", 1)
        if self._in_a_row >= _value(self.definition, *needed):
            self.success, self.failed = not wrong, wrong


def with_port_numbers(definition: dict[str, Any], container: dict[str, Any]) -> dict[str, Any]:
    """A probe or hook whose ports are numbers, where they are names of the container's ports."""
    numbers = {port.get("name"): port["containerPort"] for port in container.get("ports") or []}
    result = dict(definition)
    for action in ("httpGet", "tcpSocket"):
        if definition.get(action) is not None:
            port = definition[action]["port"]
            result[action] = {**definition[action], "port": numbers[port] if isinstance(port, str) else port}
    return result


def look(definition: dict[str, Any], timeout: float, cri: "Cri", container_id: str, address: str) -> str:
    """Run a probe's action once against a container at `address`; what is wrong, in words, or an empty string."""
    try:
        if definition.get("exec") is not None:
            return _exec(definition["exec"], timeout, cri, container_id)
        if definition.get("httpGet") is not None:
            return _http(definition["httpGet"], timeout, address)
        if definition.get("grpc") is not None:
            return _grpc(definition["grpc"], timeout, address)
        target = definition["tcpSocket"]
        with socket.create_connection((target.get("host") or address, target["port"]), timeout):
            return ""
    except (OSError, ValueError) as error:
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
    """Ask for a page and look at its status, all that counts; http.client would cost each runner three megabytes."""
    host, port, path = action.get("host") or address, action["port"], action.get("path") or "/"
    headers = [(header["name"], header["value"]) for header in action.get("httpHeaders") or []]
    given = {name.lower() for name, _ in headers}
    usual = {"Host": f"[{host}]:{port}" if ":" in host else f"{host}:{port}", "User-Agent": "casemate-pod"}
    headers += [(name, value) for name, value in usual.items() if name.lower() not in given]
    lines = [f"GET {quote(path, _IN_A_PATH)} HTTP/1.1", *(f"{name}: {value}" for name, value in headers)]
    request = "\r\n".join([*lines, "Connection: close", "", ""])
    with socket.create_connection((host, port), timeout) as plain, _secured(plain, action) as link:
        link.sendall(request.encode("latin-1"))
        said = b""
        while b"\n" not in said and len(said) < _LINE_BYTES and (piece := link.recv(_LINE_BYTES)):
            said += piece
    status = re.match(rb"HTTP/1\.[01] (\d{3})\b", said)
    where = f"from {host}:{port}{path}"
    if not status:
        return f"no HTTP {where}: {said[:80]!r}"
    fine = 200 <= int(status[1]) < 400 or action.get("any_status")
    return "" if fine else f"HTTP {int(status[1])} {where}"


def _secured(link: socket.socket, action: dict[str, Any]) -> socket.socket:
    if action.get("scheme") != "HTTPS":
        return link
    import ssl  # not for every runner to hold

    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # as Kubernetes does: pods sign their own
    return context.wrap_socket(link)


def _grpc(action: dict[str, Any], timeout: float, address: str) -> str:
    """Ask grpc.health.v1.Health/Check: the request's field 1 is a service's name, the answer's field 1 its state."""
    name = (action.get("service") or "").encode()
    request = b"\x0a" + _varint(len(name)) + name if name else b""
    try:
        answer = unary.call((address, action["port"]), "/grpc.health.v1.Health/Check", request, timeout)
    except unary.GrpcError as error:
        return f"gRPC {error.code}: {error.details}"
    return "" if answer[:2] == bytes([0x08, _GRPC_SERVING]) else f"gRPC health of {name.decode()!r}: not SERVING"


def _varint(number: int) -> bytes:
    rest, low = number >> 7, number & 0x7F
    return bytes([low]) if not rest else bytes([low | 0x80]) + _varint(rest)


def _value(definition: dict[str, Any], key: str, default: int) -> int:
    value = definition.get(key)
    return default if value is None else value
