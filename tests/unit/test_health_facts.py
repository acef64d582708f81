"""Facts, package sources and settings are read from what a host has."""

import socket
import time

import pytest
from health_fakes import FakeHost, bare

from appliance.node.health import facts, mirrors, settings
from appliance.node.health.host import Host

FIB_TRIE = """Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 10.87.0.13
        /32 host LOCAL
     |-- 10.87.0.255
        /32 link BROADCAST
     |-- 9.1.1.1
        /32 host LOCAL
     |-- 127.0.0.1
        /32 host LOCAL
"""


@pytest.fixture
def host(tmp_path) -> FakeHost:
    return bare(tmp_path)


def test_facts_have_the_keys_that_roles_use(host):
    given = facts.gather(host, settings.Settings())
    assert {
        "distribution": "debian",
        "distribution_release": "bookworm",
        "distribution_version": "12",
        "cgroup": "v2",
        "init": "systemd",
        "memory_mib": 3906,
    }.items() <= given.items()
    assert {"architecture", "kernel", "cpus", "addresses", "default_interface", "storage"} <= set(given)


def test_addresses_are_the_hosts_own_and_global(host):
    host.write("/proc/net/fib_trie", FIB_TRIE)
    host.write(
        "/proc/net/if_inet6",
        "fd000000000000000000000000000002 02 40 00 80 eth0\nfe80000000000000000000000000000a 02 40 20 80 eth0\n",
    )
    assert facts.addresses(host) == ["9.1.1.1", "10.87.0.13", "fd00::2"]


def test_the_default_route_with_the_lowest_metric_counts(host):
    host.write(
        "/proc/net/route",
        "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n"
        "wlan0 00000000 0100570A 0003 0 0 600 00000000 0 0 0\n"
        "eth0 00000000 0100570A 0003 0 0 100 00000000 0 0 0\n"
        "eth1 0000570A 00000000 0001 0 0 0 00FFFFFF 0 0 0\n",
    )
    assert facts.default_interface(host) == "eth0"


def test_package_sources_of_every_form_are_found(host):
    host.write(
        "/etc/apt/sources.list",
        "# deb http://old.example.org/debian x main\n"
        "deb [signed-by=/x.gpg arch=amd64] https://a.example.org/debian bookworm main\n"
        "deb-src http://src.example.org/debian bookworm main\n"
        "deb cdrom:[Debian]/ bookworm main\n",
    )
    host.write("/etc/apt/sources.list.d/off.list.disabled", "deb http://off.example.org/debian x main\n")
    host.write(
        "/etc/apt/sources.list.d/new.sources",
        "Types: deb deb-src\n# why\nURIs: http://b.example.org:8080/debian\n  mirror+http://c.example.org/list\n"
        "Suites: bookworm\n\nTypes: deb\nEnabled: no\nURIs: http://d.example.org/\n\n"
        "Types: deb-src\nURIs: http://e.example.org/\n",
    )
    assert [endpoint[:2] for endpoint in mirrors.endpoints(host)] == [
        ("a.example.org", 443),
        ("b.example.org", 8080),
        ("c.example.org", 80),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not JSON"),
        ("[]", "expected an object"),
        ('{"memory": 1}', "unknown key 'memory'"),
        ('{"memory_required_mib": "900"}', "expected int"),
        ('{"memory_required_mib": true}', "expected int"),
        ('{"offline": 1}', "expected bool"),
    ],
)
def test_bad_settings_are_refused_naming_the_key(text, said):
    with pytest.raises(settings.SettingsError, match=said):
        settings.from_json(text, "--params")


def test_a_missing_configuration_means_the_defaults(tmp_path):
    assert settings.from_file(tmp_path / "health.json") == settings.Settings()


class TestHost:
    """The real host: programs and connections that go wrong are answers, not exceptions."""

    def test_a_program_that_is_not_there_or_too_slow_is_told_by_its_code(self):
        assert Host().run(["/nonexistent/program"]).code == 127
        slow = Host().run(["sleep", "5"], timeout=0.1)
        assert (slow.code, slow.message) == (124, "sleep: no answer within 0.1 s")

    def test_the_last_line_of_the_errors_is_the_message(self):
        assert Host().run(["sh", "-c", "echo out; echo one >&2; echo two >&2; exit 3"]).message == "two"

    def test_a_refused_connection_names_address_and_port(self):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))  # bound, not listening
            port = taken.getsockname()[1]
            assert f"127.0.0.1:{port}" in Host().connect("127.0.0.1", port, 2)
            taken.listen()
            assert Host().connect("127.0.0.1", port, 2) is None

    def test_a_resolver_that_hangs_does_not_hold_the_check_up(self, monkeypatch):
        monkeypatch.setattr(socket, "create_connection", lambda *_, **__: time.sleep(1) or socket.socket())
        began = time.monotonic()
        assert "within 0.1 s" in Host().connect("deb.example.org", 80, 0.1)
        assert time.monotonic() - began < 0.8
