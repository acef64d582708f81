"""The pods' network on a deployed lab host: `runc` and `microvm` alike, but for what a guest may not send.

tests/inside/network.py makes two pods of each handler, and stations on the host and outside of it.
"""

import pytest

from tests import images
from tests.conftest import inside

pytestmark = pytest.mark.lab

HANDLERS = ("runc", "microvm")
OWN = {"own ipv4", "own arp", "own ipv6", "own link-local", "own neighbour advertisement"}


@pytest.fixture(scope="module")
def seen(deployed_host):
    images.load(deployed_host, "python")
    return inside(deployed_host, "network", "16")


@pytest.mark.parametrize("way", ["runc to runc2", "runc to microvm", "microvm to runc", "microvm to microvm2"])
def test_pods_reach_each_other_over_both_protocols_with_packets_of_any_size(seen, way):
    found = {key: value for key, value in seen["between"][way].items() if not key.startswith("seconds")}
    kinds = ("tcp", "udp", "fragments", "ping")
    assert found == {f"{kind}{version}": True for kind in kinds for version in (4, 6)}


def test_multicast_and_broadcast_reach_every_pod_of_either_handler(seen):
    pods = ("runc", "runc2", "microvm", "microvm2")
    for group, heard in seen["groups"].items():
        assert heard == {pod: [other for other in pods if other != pod] for pod in pods}, group


def test_names_are_resolved_as_the_pod_says_over_both_protocols(seen):
    for pod, server in zip(("runc", "runc2", "microvm", "microvm2"), ("10.86.0.1", "fd00:86::1") * 2, strict=True):
        lines, found = seen["names"][pod]
        assert lines == ["search cluster.test", f"nameserver {server}", "options ndots:2 timeout:5", ""]
        assert found == ["192.0.2.77"]


@pytest.mark.parametrize("handler", HANDLERS)
def test_a_hosts_port_leads_to_the_pod_from_everywhere(seen, handler):
    assert len(seen["host_ports"][handler]) == 9
    assert [way for way, reached in seen["host_ports"][handler].items() if reached is not True] == []


@pytest.mark.parametrize("handler", HANDLERS)
def test_a_rule_of_the_hosts_forward_hook_stops_the_pod(seen, handler):
    assert seen["policy"][handler] == [True, False, True]


@pytest.mark.parametrize("handler", HANDLERS)
def test_a_guest_sends_only_as_itself_while_a_runc_pods_root_may_pose_as_anybody(seen, handler):
    arrived = {mark.strip("<>") for mark, reached in seen["posing"][handler].items() if reached}
    assert len(seen["posing"][handler]) == 19
    assert arrived == (OWN if handler == "microvm" else {mark.strip("<>") for mark in seen["posing"][handler]})


@pytest.mark.parametrize("handler", HANDLERS)
def test_port_forward_reaches_what_listens_on_the_pods_loopback(seen, handler):
    found = seen["forward"][handler]
    assert (found["any"], found["loopback4"], found["loopback6"]) == (True, True, True)
    assert found["many"] == [True] * 24


def test_port_forward_where_nobody_listens_carries_nothing(seen):
    """With a microVM the engine's own connection is accepted first, then reset; the engine may tell its end only."""
    assert "connection refused" in seen["forward"]["runc"]["none"]
    found = seen["forward"]["microvm"]["none"]
    assert found is False or "connection reset" in found


@pytest.mark.parametrize("mtu", ["1300", "9000"])
def test_the_networks_packet_size_is_the_guests_too(seen, mtu):
    # Where packets of a bridge pass iptables, the kernel joins fragments and cannot take them apart for more than
    # 1500 bytes (IpFragFails): between any two pods, so it is no matter of the handler.
    fragments = mtu == "1300"
    assert seen["sizes"][mtu] == {
        handler: {"mtu": int(mtu), "tcp": True, "fragments": fragments, "segmentation": True} for handler in HANDLERS
    }


def test_a_guest_takes_no_address_from_a_neighbour(seen):
    assert {handler: seen["card"][handler]["accept_ra"] for handler in HANDLERS} == {"runc": "1", "microvm": "0"}


def test_the_hosts_stack_in_a_microvms_namespace_neither_answers_nor_reaches_anything(seen):
    found = seen["silence"]
    assert found["before"] is True and found["after"] is True
    assert [found[kind].startswith("!") for kind in ("ping", "ping6")] == [True, True]
    assert "Error" in found["from inside"]


@pytest.mark.full
def test_a_hundred_megabytes_arrive_unchanged_each_way(deployed_host, seen):
    found = inside(deployed_host, "network", "100", timeout=1800)["between"]
    assert {way: what["tcp4"] for way, what in found.items()} == dict.fromkeys(seen["between"], True)
