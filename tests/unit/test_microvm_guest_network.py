"""What the guest's agent asks of its kernel for the pod's addresses: done here, in a network namespace of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from appliance.node import microvm

GUEST = Path(microvm.__file__).parent / "guest"
INTERFACE = {
    "mac": "02:00:00:00:00:01",
    "mtu": 1400,
    "addresses": ["10.88.0.5/16", "fd00:88::5/64"],
    "routes": [
        {"dst": "169.254.1.1", "gateway": None, "scope": "link"},
        {"dst": "10.99.0.0/24", "gateway": "169.254.1.1", "scope": None},
        {"dst": "default", "gateway": "10.88.0.1", "scope": None},
        {"dst": "default", "gateway": "fd00:88::1", "scope": None},
    ],
}
SCRIPT = """
import json, subprocess, sys
sys.path.insert(0, sys.argv[1])
import network
ip = lambda *words: json.loads(subprocess.run(["ip", "-json", *words], capture_output=True, check=True).stdout or "[]")
subprocess.run(["ip", "link", "add", "eth0", "type", "veth", "peer", "name", "other"], check=True)
failure = None
try:
    network.configure(json.loads(sys.argv[2]))
except OSError as error:
    failure = str(error)
print(json.dumps({"failure": failure, "links": ip("addr", "show"), "routes": ip("route") + ip("-6", "route")}))
"""


@pytest.fixture
def configure():
    if os.geteuid() != 0:
        pytest.skip("a network namespace needs root")

    def run(interface: dict) -> dict:
        argv = ["unshare", "--net", sys.executable, "-c", SCRIPT, str(GUEST), json.dumps(interface)]
        return json.loads(subprocess.run(argv, capture_output=True, text=True, check=True).stdout)

    return run


def test_the_card_gets_address_hardware_address_mtu_and_routes(configure):
    seen = configure(INTERFACE)
    assert seen["failure"] is None
    lo, card = ({link["ifname"]: link for link in seen["links"]}[name] for name in ("lo", "eth0"))
    assert "UP" in lo["flags"] and "UP" in card["flags"]
    assert (card["address"], card["mtu"]) == ("02:00:00:00:00:01", 1400)
    addresses = {f"{a['local']}/{a['prefixlen']}": a for a in card["addr_info"]}
    assert addresses["10.88.0.5/16"]["scope"] == "global"
    assert addresses["fd00:88::5/64"].get("nodad") and "tentative" not in addresses["fd00:88::5/64"]
    routes = {(r["dst"], r.get("gateway")): r for r in seen["routes"]}
    assert routes["169.254.1.1", None]["scope"] == "link"
    for route in (("10.99.0.0/24", "169.254.1.1"), ("default", "10.88.0.1"), ("default", "fd00:88::1")):
        assert routes[route]["dev"] == "eth0"


def test_a_route_that_the_kernel_refuses_is_named(configure):
    lost = INTERFACE | {"routes": [{"dst": "default", "gateway": "192.0.2.1", "scope": None}]}
    assert "route to default: Network is unreachable" in configure(lost)["failure"]
