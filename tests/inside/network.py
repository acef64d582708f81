"""Runs on an appliance: pods of both handlers on its network, between each other, the host and the outside.

`network.py MIB`: how much a big transfer is. Needs the test image python. Prints JSON.
"""

import contextlib
import ipaddress
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cri_pods import Pod, cri
from in_container import peer

from appliance.node.pods import streaming
from appliance.node.pods.spdy import StreamingError

IMAGE = {"image": "localhost/casemate-test/python:1"}
PROGRAM = Path(__file__).parent / "in_container/peer.py"
WORK = Path("/var/lib/casemate-test")
CONFIG = Path("/etc/cni/net.d/10-casemate.conflist")
OUTSIDE, HOST, OUTSIDE6, HOST6 = "203.0.113.2", "203.0.113.1", "2001:db8:5::2", "2001:db8:5::1"
NAMES, ANSWER = "cluster.test", "192.0.2.77"
TCP_PORT, UDP_PORT = {"runc": 18081, "microvm": 18082}, {"runc": 18083, "microvm": 18084}


class Station:
    """A peer.py somewhere, reached at an IPv4 address."""

    def __init__(self, address):
        self.address = address
        end = time.monotonic() + 120
        while True:
            try:
                self.do("ready")
                return
            except OSError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.2)

    def do(self, what, **arguments):
        with socket.create_connection((self.address, peer.CONTROL), timeout=120) as link, link.makefile("rw") as stream:
            stream.write(json.dumps({"do": what, **arguments}) + "\n")
            stream.flush()
            return json.loads(stream.readline())


class PodStation(Station):
    def __init__(self, handler, server, **config):
        names = {"servers": [server], "searches": [NAMES], "options": ["ndots:2", "timeout:5"]}
        self.pod = Pod(f"net-{handler}", handler=handler, config={"dns_config": names, **config})
        volume = {"host_path": str(WORK), "container_path": "/work", "readonly": True}
        self.container = self.pod.container("/usr/bin/python3", "-B", "/work/peer.py", image=IMAGE, mounts=[volume])
        network = cri.call("PodSandboxStatus", pod_sandbox_id=self.pod.id).status.network
        self.address6 = next((a.ip for a in network.additional_ips if ":" in a.ip), None)
        super().__init__(network.ip)
        self.mac = self.do("read", path="/sys/class/net/eth0/address").strip()

    @property
    def namespace(self):
        return Path("/run/casemate/microvm", self.pod.id, "netns").read_text()


def main():
    mib = int(sys.argv[1])
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir()
    shutil.copy(PROGRAM, WORK)
    with contextlib.ExitStack() as ends:
        ends.callback(shutil.rmtree, WORK)
        print(json.dumps(look(mib, ends), indent=1))


def look(mib, ends):
    ipam = json.loads(CONFIG.read_text())["plugins"][0]["ipam"]
    gateways = [str(ipaddress.ip_network(ranges[0]["subnet"])[1]) for ranges in ipam["ranges"]]
    host, outside = stations_of_the_host(ends)
    with ThreadPoolExecutor(4) as pool:
        wanted = [("runc", gateways[0]), ("runc", gateways[-1]), ("microvm", gateways[0]), ("microvm", gateways[-1])]
        made = pool.map(lambda w: pod_station(*w, forwarded=w[1] == gateways[0]), wanted)
        stations = dict(zip(("runc", "runc2", "microvm", "microvm2"), made, strict=True))
    for station in stations.values():
        ends.callback(station.pod.remove)
    host.do("answer_names", servers=gateways, answer=ANSWER)
    seen = {"between": between(stations, mib)}
    seen["groups"] = groups(stations)
    seen["names"] = {
        name: [s.do("read", path="/etc/resolv.conf").split("\n"), s.do("resolve", name="svc")]
        for name, s in stations.items()
    }
    seen["host_ports"] = {h: host_ports(h, stations, host, outside) for h in ("runc", "microvm")}
    seen["policy"] = {h: policy(stations[h]) for h in ("runc", "microvm")}
    seen["posing"] = {h: posing(stations[h], stations["runc2"], stations["microvm2"]) for h in ("runc", "microvm")}
    seen["forward"] = {h: forward(stations[h].pod) for h in ("runc", "microvm")}
    seen["card"] = {h: card(stations[h]) for h in ("runc", "microvm")}
    seen["silence"] = silence(stations["microvm2"], host, gateways[0])
    seen["sizes"] = {mtu: sizes(mtu) for mtu in (1300, 9000)}
    return seen


def stations_of_the_host(ends):
    """Peers on the host, and in a namespace that is a machine outside of it."""
    # held by a process, not by a name: `ip netns add` makes a mount that stays after the last name is gone
    holder = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
    ends.callback(holder.wait)
    ends.callback(holder.kill)
    namespace = f"/proc/{holder.pid}/ns/net"
    while os.readlink(namespace) == os.readlink("/proc/self/ns/net"):
        time.sleep(0.05)
    inside = ["nsenter", f"--net={namespace}"]
    run("ip", "link", "add", "out0", "type", "veth", "peer", "name", "out1", "netns", str(holder.pid))
    run("ip", "addr", "add", f"{HOST}/24", "dev", "out0")
    run("ip", "addr", "add", f"{HOST6}/64", "dev", "out0", "nodad")
    run("ip", "link", "set", "out0", "up")
    run(*inside, "ip", "addr", "add", f"{OUTSIDE}/24", "dev", "out1")
    run(*inside, "ip", "addr", "add", f"{OUTSIDE6}/64", "dev", "out1", "nodad")
    run(*inside, "ip", "link", "set", "lo", "up")
    run(*inside, "ip", "link", "set", "out1", "up")
    run(*inside, "ip", "route", "add", "default", "via", HOST)
    run(*inside, "ip", "-6", "route", "add", "default", "via", HOST6)
    for prefix in ([], inside):
        station = subprocess.Popen([*prefix, sys.executable, "-B", str(WORK / "peer.py")])
        ends.callback(station.wait)
        ends.callback(station.kill)
    return Station("127.0.0.1"), Station(OUTSIDE)


def pod_station(handler, server, forwarded):
    mappings = [
        {"protocol": 0, "container_port": peer.SUM, "host_port": TCP_PORT[handler]},
        {"protocol": 1, "container_port": peer.ECHO, "host_port": UDP_PORT[handler]},
    ]
    return PodStation(handler, server, **({"port_mappings": mappings} if forwarded else {}))


def between(stations, mib):
    """From each kind to each kind: {"runc to microvm": {...}}."""
    seen = {}
    for one, other in (("runc", "runc2"), ("runc", "microvm"), ("microvm", "runc"), ("microvm", "microvm2")):
        sender, receiver = stations[one], stations[other]
        seen[f"{one} to {other}"] = found = {}
        for version, address in ((4, receiver.address), (6, receiver.address6)):
            begin = time.monotonic()
            found[f"tcp{version}"] = sender.do("send", to=address, mib=mib if version == 4 else 1)
            found[f"seconds{version}"] = round(time.monotonic() - begin, 2)
            found[f"udp{version}"] = sender.do("datagram", to=address)
            found[f"fragments{version}"] = sender.do("datagram", to=address, size=40000)
            found[f"ping{version}"] = sender.do("ping", to=address)
    return seen


def groups(stations):
    """Who hears whom over multicast and broadcast: {group: {speaker: [listeners]}}."""
    time.sleep(1)  # until the bridge has taken their joining
    for name, station in stations.items():
        for group in peer.GROUPS:
            station.do("shout", group=group, text=name)
    time.sleep(2)
    return {
        group: {
            name: [other for other, s in stations.items() if other != name and name in s.do("heard", group=group)]
            for name in stations
        }
        for group in peer.GROUPS
    }


def host_ports(handler, stations, host, outside):
    """Who reaches the pod through the host's ports."""
    other = stations["runc2" if handler == "microvm" else "microvm2"]
    seen = {}
    for name, station, tcp, address in (
        ("outside", outside, True, HOST), ("outside6", outside, True, HOST6), ("host by its address", host, True, HOST),
        ("host by localhost", host, True, "127.0.0.1"), ("other pod", other, True, HOST),
        ("the pod itself", stations[handler], True, HOST), ("outside, UDP", outside, False, HOST),
        ("host by its address, UDP", host, False, HOST), ("other pod, UDP", other, False, HOST),
    ):  # fmt: skip
        if tcp:
            seen[name] = station.do("send", to=address, port=TCP_PORT[handler])
        else:
            seen[name] = station.do("datagram", to=address, port=UDP_PORT[handler])
    return seen


def policy(station):
    """Whether a pod reaches the outside before, while and after a rule of the host forbids it."""
    seen = [station.do("datagram", to=OUTSIDE, seconds=1)]
    rule = f"ip saddr {station.address} counter drop"
    run("nft", "add table inet casemate_test; add chain inet casemate_test forward "
        f"{{ type filter hook forward priority 0; }}; add rule inet casemate_test forward {rule}")  # fmt: skip
    try:
        seen.append(station.do("datagram", to=OUTSIDE, seconds=1))
    finally:
        run("nft", "delete table inet casemate_test")
    return [*seen, station.do("datagram", to=OUTSIDE, seconds=1)]


def posing(sender, target, victim):
    """Which of the frames that the sender's root makes reach another pod, a target in its own right."""
    frames = made_frames(sender, target, victim)
    with ThreadPoolExecutor(1) as pool:
        sniffing = pool.submit(target.do, "sniff", marks=list(frames), seconds=5)
        time.sleep(1.5)
        said = sender.do("raw", frames=[frame.hex() for frame in frames.values()])
        arrived = sniffing.result()
    return said or {mark: mark in arrived for mark in frames}


def made_frames(sender, target, victim):
    own_mac, their_mac, to = (bytes.fromhex(s.mac.replace(":", "")) for s in (sender, victim, target))
    own, theirs, dst = (socket.inet_aton(s.address) for s in (sender, victim, target))
    own6, theirs6, dst6 = (socket.inet_pton(socket.AF_INET6, s.address6) for s in (sender, victim, target))
    all_nodes = socket.inet_pton(socket.AF_INET6, "ff02::1")
    local6 = link_local(own_mac)

    def ip(src, mark, sport=9999):
        udp = struct.pack("!HHHH", sport, 9998, 8 + len(mark), 0) + mark
        head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0, src, dst)
        return b"\x08\x00" + head[:10] + struct.pack("!H", peer.checksum(head)) + head[12:] + udp

    def ip6(src, mark, following=17, payload=None, to=dst6, hops=64):
        payload = payload or struct.pack("!HHHH", 9999, 9998, 8 + len(mark), 0) + mark
        return b"\x86\xdd" + struct.pack("!IHBB16s16s", 6 << 28, len(payload), following, hops, src, to) + payload

    def arp(mac, address, mark, operation=2):
        return b"\x08\x06" + struct.pack("!HHBBH6s4s6s4s", 1, 0x800, 6, 4, operation, mac, address, to, dst) + mark

    def neighbour(kind, address, mark, src):
        option = b"\x02\x01" + own_mac
        payload = struct.pack("!BBHI", kind, 0, 0, 0x20000000) + address + option + mark
        return ip6(src, mark, 58, payload, all_nodes, 255)

    def extended(mark):
        """An advertisement behind an extension header, where a filter that looks at fixed places misses it."""
        payload = struct.pack("!BBHI", 58, 0, 0x104, 0)[:8]
        payload += struct.pack("!BBHI", 136, 0, 0, 0x20000000) + theirs6 + b"\x02\x01" + own_mac + mark
        return ip6(own6, mark, 60, payload, all_nodes, 255)

    kinds = {
        "own ipv4": lambda m: (own_mac, ip(own, m)),
        "own arp": lambda m: (own_mac, arp(own_mac, own, m)),
        "own ipv6": lambda m: (own_mac, ip6(own6, m)),
        "own link-local": lambda m: (own_mac, ip6(local6, m)),
        "own neighbour advertisement": lambda m: (own_mac, neighbour(136, own6, m, own6)),
        "another's ipv4": lambda m: (own_mac, ip(theirs, m)),
        "no ipv4": lambda m: (own_mac, ip(bytes(4), m)),
        "another's mac": lambda m: (their_mac, ip(own, m)),
        "another's arp": lambda m: (own_mac, arp(own_mac, theirs, m)),
        "another's mac in arp": lambda m: (own_mac, arp(their_mac, own, m)),
        "another's ipv6": lambda m: (own_mac, ip6(theirs6, m)),
        "another's link-local": lambda m: (own_mac, ip6(link_local(their_mac), m)),
        "another's neighbour advertisement": lambda m: (own_mac, neighbour(136, theirs6, m, own6)),
        "another's, behind a header": lambda m: (own_mac, extended(m)),
        "router advertisement": lambda m: (own_mac, neighbour(134, bytes(16), m, local6)),
        "dhcp server": lambda m: (own_mac, ip(own, m, 67)),
        "vlan": lambda m: (own_mac, b"\x81\x00\x00\x05" + ip(own, m)),
        "vlan in vlan": lambda m: (own_mac, b"\x88\xa8\x00\x05\x81\x00\x00\x05" + ip(own, m)),
        "another protocol": lambda m: (own_mac, b"\x88\xb5" + m),
    }
    frames = {}
    for name, make in kinds.items():
        mark = f"<{name}>"
        source, rest = make(mark.encode())
        frames[mark] = to + source + rest + bytes(max(0, 46 - len(rest)))
    return frames


def link_local(mac):
    return b"\xfe\x80" + bytes(6) + bytes([mac[0] ^ 2]) + mac[1:3] + b"\xff\xfe" + mac[3:]


def forward(pod):
    """Port-forward to a port on all addresses, on the loopback's two, on none, and many at a time."""
    seen = {}
    for name, port in (("any", peer.SUM), ("loopback4", peer.LOOPBACK4), ("loopback6", peer.LOOPBACK6), ("none", 7099)):
        try:
            seen[name] = forwarded(pod, port, 3)
        except StreamingError as error:
            seen[name] = f"!{error}"
    with ThreadPoolExecutor(8) as pool:
        seen["many"] = list(pool.map(lambda _: forwarded(pod, peer.LOOPBACK4, 0), range(24)))
    return seen


def forwarded(pod, port, mib):
    data = os.urandom((mib << 20) + 1000)
    answer = streaming.Forward(cri, pod.id, port).communicate(struct.pack("!Q", len(data)) + data)
    return answer.decode() == peer.hashlib.sha256(data).hexdigest()


def card(station):
    return {
        "mtu": int(station.do("read", path="/sys/class/net/eth0/mtu")),
        "segmentation": station.do("segmentation"),  # it takes TCP segments larger than its packets
        "accept_ra": station.do("read", path="/proc/sys/net/ipv6/conf/eth0/accept_ra").strip(),
    }


def sizes(mtu):
    """A pod of each handler on a network of its own with packets of this size, sending to the other."""
    bridge = {"type": "bridge", "bridge": "size0", "mtu": mtu, "isGateway": True,
              "ipam": {"type": "host-local", "dataDir": str(WORK / "ipam"),
                       "ranges": [[{"subnet": "10.99.0.0/24"}]]}}  # fmt: skip
    config = CONFIG.with_name("00-test.conflist")
    config.write_text(json.dumps({"cniVersion": "1.0.0", "name": f"size{mtu}", "plugins": [bridge]}))
    time.sleep(2)  # until the engine has taken it
    try:
        with ThreadPoolExecutor(2) as pool:
            one, other = pool.map(lambda handler: PodStation(handler, HOST), ("runc", "microvm"))
        seen = {}
        for name, station, to in (("runc", one, other), ("microvm", other, one)):
            seen[name] = {
                "mtu": card(station)["mtu"],
                "segmentation": card(station)["segmentation"],
                "tcp": station.do("send", to=to.address),
                "fragments": station.do("datagram", to=to.address, size=40000),
            }
        for station in (one, other):
            station.pod.remove()
        return seen
    finally:
        config.unlink()
        run("ip", "link", "del", "size0")
        time.sleep(2)


def silence(station, host, gateway):
    """What the host's stack in a microVM's namespace does while its guest stands still."""
    qemu = station.pod.qemu()
    seen = {"before": host.do("ping", to=station.address)}
    os.kill(qemu, signal.SIGSTOP)
    try:
        run("ip", "neigh", "flush", "to", station.address)
        seen["ping"] = host.do("ping", to=station.address)
        run("ip", "neigh", "flush", "to", station.address6)
        seen["ping6"] = host.do("ping", to=station.address6)
        connect = f"import socket; socket.create_connection(({gateway!r}, {peer.CONTROL}), timeout=5)"
        argv = ["nsenter", f"--net={station.namespace}", sys.executable, "-c", connect]
        seen["from inside"] = subprocess.run(argv, capture_output=True, text=True).stderr.strip().split("\n")[-1]
    finally:
        os.kill(qemu, signal.SIGCONT)
    seen["after"] = host.do("ping", to=station.address)
    return seen


def run(*argv):
    subprocess.run(argv, check=True, capture_output=True)


if __name__ == "__main__":
    main()
