"""A station of the network's test: runs in a pod, on the host or outside of it, and does what it is told over TCP.

`peer.py`: port 7000 takes {"do": NAME, ...} on one line and answers one line. SUM answers the SHA-256 of what it is
sent (eight bytes of length first), ECHO every datagram.
"""

import fcntl
import hashlib
import ipaddress
import json
import os
import socket
import struct
import threading
import time
from pathlib import Path

CONTROL, SUM, ECHO, LOOPBACK4, LOOPBACK6 = 7000, 7001, 7003, 7010, 7011
GROUPS = {"239.1.2.3": 7020, "ff15::1234": 7021, "255.255.255.255": 7022}
SIOCETHTOOL, ETHTOOL_GTSO = 0x8946, 0x1E


def main():
    heard.of = {group: [] for group in GROUPS}
    threads = [
        (sums, ("::", SUM)), (sums, ("127.0.0.1", LOOPBACK4)), (sums, ("::1", LOOPBACK6)), (echo, ("::", ECHO)),
        *((listen, item) for item in GROUPS.items()),
    ]  # fmt: skip
    for target, arguments in threads:
        threading.Thread(target=target, args=arguments, daemon=True).start()
    serve("0.0.0.0", CONTROL, control)


def serve(address, port, handler):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    both = family == socket.AF_INET6 and address == "::"
    listening = socket.create_server((address, port), family=family, dualstack_ipv6=both, backlog=64)
    while True:
        link, _ = listening.accept()
        threading.Thread(target=handler, args=(link,), daemon=True).start()


def control(link):
    with link, link.makefile("rw") as stream:
        order = json.loads(stream.readline())
        try:
            answer = globals()[order.pop("do")](**order)
        except Exception as error:
            answer = f"!{type(error).__name__}: {error}"
        stream.write(json.dumps(answer) + "\n")


def sums(address, port):
    serve(address, port, summed)


def summed(link):
    with link, link.makefile("rb") as stream:
        left, digest = struct.unpack("!Q", stream.read(8))[0], hashlib.sha256()
        while left and (piece := stream.read(min(left, 1 << 20))):
            digest.update(piece)
            left -= len(piece)
        link.sendall(digest.hexdigest().encode())


def echo(address, port):
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as link:
        link.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        link.bind((address, port))
        while True:
            data, sender = link.recvfrom(1 << 16)
            link.sendto(data, sender)


def listen(group, port):
    """Note the datagrams for a group of addresses."""
    family = socket.AF_INET6 if ":" in group else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as link:
        link.bind(("", port))
        if family == socket.AF_INET6:
            request = socket.inet_pton(family, group) + struct.pack("@I", socket.if_nametoindex(card()))
            link.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, request)
        elif group != "255.255.255.255":
            request = socket.inet_aton(group) + socket.inet_aton(own(4))
            link.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)
        while True:
            heard.of[group].append(link.recv(2048).decode())


# --- what it can be told to do


def ready():
    return True


def send(to, port=SUM, mib=1):
    """Send so many MiB; whether they arrived unchanged."""
    data = os.urandom(1 << 20)
    digest = hashlib.sha256()
    with socket.create_connection((to, port), timeout=60) as link:
        link.sendall(struct.pack("!Q", mib << 20))
        for _ in range(mib):
            digest.update(data)
            link.sendall(data)
        answer = b"".join(iter(lambda: link.recv(65536), b""))
    return answer.decode() == digest.hexdigest()


def datagram(to, size=64, port=ECHO, seconds=3):
    """Whether a datagram of this size comes back, in one of three tries."""
    family = socket.AF_INET6 if ":" in to else socket.AF_INET
    data = os.urandom(size)
    for _ in range(3):
        with socket.socket(family, socket.SOCK_DGRAM) as link:
            link.settimeout(seconds)
            try:
                link.sendto(data, (to, port))
                if link.recv(1 << 16) == data:
                    return True
            except OSError:
                time.sleep(0.1)
    return False


def ping(to):
    """Whether an echo request is answered."""
    six = ":" in to
    kind, protocol, answer = (128, socket.IPPROTO_ICMPV6, 129) if six else (8, socket.IPPROTO_ICMP, 0)
    mark = os.urandom(8)
    body = struct.pack("!BBHHH", kind, 0, 0, 1, 1) + mark
    if not six:
        body = body[:2] + struct.pack("!H", checksum(body)) + body[4:]
    with socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_RAW, protocol) as link:
        link.settimeout(5)
        link.sendto(body, (to, 0))
        while True:
            data, sender = link.recvfrom(2048)
            data = data if six else data[20:]
            if data[0] == answer and data.endswith(mark):
                return sender[0] == to


def shout(group, text):
    """Send to a group of addresses."""
    family = socket.AF_INET6 if ":" in group else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as link:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        if family == socket.AF_INET6:
            link.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, socket.if_nametoindex(card()))
        link.sendto(text.encode(), (group, GROUPS[group]))


def heard(group):
    return heard.of[group]


def raw(frames):
    """Send frames as they are, given in hex."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as link:
        link.bind((card(), 0))
        for frame in frames:
            link.send(bytes.fromhex(frame))


def sniff(marks, seconds):
    """Which of these texts were in frames that came in."""
    seen, end = set(), time.monotonic() + seconds
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as link:
        link.bind((card(), 3))
        while (left := end - time.monotonic()) > 0:
            link.settimeout(left)
            try:
                data, (_, _, kind, *_) = link.recvfrom(1 << 16)
            except TimeoutError:
                break
            if kind != socket.PACKET_OUTGOING:
                seen |= {mark for mark in marks if mark.encode() in data}
    return sorted(seen)


def resolve(name):
    return sorted({entry[4][0] for entry in socket.getaddrinfo(name, None)})


def read(path):
    return Path(path).read_text()


def segmentation():
    """Whether the card takes TCP segments larger than its packets."""
    value = bytearray(struct.pack("II", ETHTOOL_GTSO, 0))
    with socket.socket() as link:
        import array

        buffer = array.array("B", value)
        request = struct.pack("16sP", card().encode(), buffer.buffer_info()[0]) + bytes(16)
        fcntl.ioctl(link, SIOCETHTOOL, request)
    return struct.unpack("II", buffer)[1] == 1


def answer_names(servers, answer):
    """Be a name server at these addresses: every name with an A record that is asked for is `answer`."""

    def answer_on(server):
        family = socket.AF_INET6 if ":" in server else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as link:
            link.bind((server, 53))
            while True:
                query, sender = link.recvfrom(2048)
                end = query.index(b"\0", 12) + 5
                found = query[end - 4 : end - 2] == b"\0\1"
                record = b"\xc0\x0c\0\1\0\1\0\0\0\1\0\4" + socket.inet_aton(answer) if found else b""
                head = query[:2] + b"\x81\x80\0\1" + struct.pack("!HHH", found, 0, 0)
                link.sendto(head + query[12:end] + record, sender)

    for server in servers:
        threading.Thread(target=answer_on, args=(server,), daemon=True).start()


# --- small things


def card():
    """The interface that is not the loopback."""
    return next(name for _, name in socket.if_nameindex() if name != "lo")


def own(version):
    probe = {4: ("192.0.2.1", socket.AF_INET), 6: ("2001:db8::1", socket.AF_INET6)}[version]
    with socket.socket(probe[1], socket.SOCK_DGRAM) as link:
        link.connect((probe[0], 9))
        return str(ipaddress.ip_address(link.getsockname()[0]))


def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


if __name__ == "__main__":
    main()
