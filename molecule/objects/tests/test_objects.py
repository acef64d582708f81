"""Objects: Swift behind one socket, its volume and its keys for nobody else."""

import pytest

VOLUME = "/var/lib/casemate/pool/volumes/objects"
LIST = """
import base64, email.utils, hashlib, hmac, sys, urllib.request as u
when = email.utils.formatdate(usegmt=True)
sign = hmac.new(sys.argv[1].encode(), f"GET\\n\\n\\n{when}\\n/".encode(), hashlib.sha1).digest()
auth = f"AWS molecule:molecule:{base64.b64encode(sign).decode()}"
asked = u.Request("http://127.0.0.1:7480/", headers={"Date": when, "Authorization": auth})
try:
    print(u.urlopen(asked, timeout=20).status)
except u.HTTPError as error:
    print(error.code)
"""


@pytest.mark.parametrize("unit", ["swift-proxy", "swift-account", "swift-container", "swift-object"])
def test_each_server_runs_now_and_at_boot(host, unit):
    assert host.service(unit).is_running
    assert host.service(unit).is_enabled


def test_what_is_not_wanted_does_not_come_with_the_next_boot(host):
    listed = host.check_output("systemctl list-unit-files --no-legend --plain --state=enabled 'swift*' 'memcached*'")
    assert {line.split()[0] for line in listed.splitlines()} == {
        "swift-proxy.service", "swift-account.service", "swift-container.service", "swift-object.service"
    }  # fmt: skip


def test_only_the_socket_can_be_reached(host):
    ports = {line.split()[3].rpartition(":")[2] for line in host.check_output("ss -Hltn").splitlines()}
    assert "7480" in ports
    assert not {"8080", "6200", "6201", "6202", "11211"} & ports


@pytest.mark.parametrize(("secret", "answer"), [("a%b/c+d==", "200"), ("another", "403")])
def test_the_key_of_the_inventory_opens_and_no_other_does(host, secret, answer):
    assert host.check_output("python3 -c %s %s", LIST, secret) == answer


def test_keys_and_objects_are_for_the_service_alone(host):
    assert host.file("/etc/swift/proxy-server.conf").mode == 0o640
    assert host.file("/etc/swift/proxy-server.conf").group == "swift"
    assert (host.file(VOLUME).user, host.file(VOLUME).mode) == ("swift", 0o700)


def test_upkeep_does_its_work(host):
    host.check_output("systemctl start casemate-objects-upkeep.service")
