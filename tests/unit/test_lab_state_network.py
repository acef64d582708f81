"""The lab's network is made whole from whatever a killed run left: in a network namespace of its own, as root."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
# everything happens in a namespace that ends with this process; `ip netns` is kept from the machine's own directory
PROGRAM = """
import errno, json, sys
from pathlib import Path
from appliance.lab import network, state

network.NETNS_DIR = Path("/run/netns")
host = state.Host("a", "nspawn", "bookworm", 1, 1024)
half_made = sys.argv[1]
if half_made != "nothing":
    network._run("ip", "link", "add", network.BRIDGE, "type", "bridge")
if half_made == "cable":
    network._run("ip", "netns", "add", host.netns)
    peer = ["peer", "name", "eth0", "netns", host.netns]
    network._run("ip", "link", "add", host.interface, "type", "veth", *peer)
for _ in range(2):
    network.up()
    network.plug(host)
# nobody listens there, so an answer is a refusal
knock = f"import socket; s = socket.socket(); s.settimeout(3); print(s.connect_ex(({state.GATEWAY!r}, 9)))"
print(errno.errorcode[int(network._run("ip", "netns", "exec", host.netns, sys.executable, "-c", knock))])
network.unplug(host)
network.down()
links = json.loads(network._run("ip", "-json", "link"))
print([link["ifname"] for link in links if link["ifname"].startswith("cmlab")])
print(network._run("nft", "list", "tables").strip())
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")
@pytest.mark.parametrize("half_made", ["nothing", "bridge", "cable"])
def test_a_half_made_network_is_completed_and_removed_without_a_trace(half_made, tmp_path):
    prepare = "mount -t sysfs none /sys && mount -t tmpfs none /run && mkdir /run/netns && ip link set lo up"
    command = ["unshare", "--net", "--mount", "sh", "-c", f'{prepare} && exec "$0" -c "$1" "$2"']
    done = subprocess.run(
        [*command, sys.executable, PROGRAM, half_made],
        env={**os.environ, "PYTHONPATH": str(PROJECT), "CASEMATE_LAB_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["ECONNREFUSED", "[]", ""]
