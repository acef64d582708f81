"""What an inventory says of the edge core, beyond what each variable's type and form say."""

import ipaddress
from collections.abc import Callable, Iterator, Mapping

from appliance.schema import UNKNOWN, Finding

DOCUMENTED = "roles/edge/defaults/main.yml"
_NEEDED = {
    "edge_url": "the address of the release's archive",
    "edge_checksum": "sha256:HEX or sha512:HEX, of the release's own checksum file",
    "edge_cloud_address": "the address or name of CloudCore",
}


def check_edge(value: Callable[[str], object]) -> Iterator[tuple[str, Finding]]:
    """The variable and what is wrong with it; `value` gives a variable's value, or its default, by name."""
    if value("edge_provider") != "kubeedge":
        return
    for name, expected in _NEEDED.items():
        if value(name) == "":
            yield name, Finding((), None, "is needed with edge_provider: kubeedge", expected)
    if value("edge_token") not in ("", None) and value("edge_token_file"):
        yield "edge_token_file", Finding((), None, "is given beside edge_token", "one of the two")
    address = str(value("edge_broker_address")).rpartition(":")[0].strip("[]")
    if value("edge_broker") == "mosquitto" and value("edge_broker_address") is not UNKNOWN and not _loopback(address):
        expected = "a loopback address, such as 127.0.0.1:1883; or edge_broker: external for a broker elsewhere"
        message = "is no loopback address, and the broker asks nobody for a password"
        yield "edge_broker_address", Finding((), value("edge_broker_address"), message, expected)
    labels = value("edge_node_labels")
    for key, label in labels.items() if isinstance(labels, Mapping) else ():
        if not isinstance(label, str) and label is not UNKNOWN:
            yield "edge_node_labels", Finding((str(key),), label, "is not text", "text: put it in quotes")
    if value("edge_static_pods") is True:
        yield from _static_pods(value("pods"))


def _static_pods(pods: object) -> Iterator[tuple[str, Finding]]:
    for number, pod in enumerate(pods if isinstance(pods, list) else ()):
        spec = pod.get("spec") if isinstance(pod, Mapping) else None
        if isinstance(spec, Mapping) and spec.get("runtimeClassName"):
            message = "cannot be had from EdgeCore, which runs this pod with edge_static_pods: true"
            expected = (
                "no runtimeClassName (engine_default_handler says what such pods get), or edge_static_pods: false"
            )
            yield "pods", Finding((number, "spec", "runtimeClassName"), spec["runtimeClassName"], message, expected)


def _loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"
