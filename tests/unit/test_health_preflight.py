"""Preflight: each fault is one finding, with evidence, cause and cure, and a healthy host has none."""

import fcntl
import os

import pytest
from health_fakes import FakeHost, bare, errors, found

from appliance.node.health import facts
from appliance.node.health.host import Result
from appliance.node.health.settings import Settings

PROMETHEUS = {
    "port": 9090,
    "address": "127.0.0.1",
    "for": "Prometheus",
    "setting": "monitoring_prometheus_port",
    "owners": ["prometheus.service"],
}


@pytest.fixture
def host(tmp_path) -> FakeHost:
    return bare(tmp_path)


def listen(host, port, address="0100007F", pid=None, unit="", inode="777"):
    """Make somebody listen, as /proc shows it."""
    host.write(
        "/proc/net/tcp",
        "  sl  local_address rem_address st tx_queue rx_queue tr tm->when retrnsmt uid timeout inode\n"
        f"   0: {address}:{port:04X} 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 {inode} 1\n",
    )
    if pid:
        host.write(f"/proc/{pid}/comm", "squatter\n")
        host.write(f"/proc/{pid}/cgroup", f"4:memory:/system.slice/{unit}\n0::/system.slice/{unit}\n")
        fd = host.path(f"/proc/{pid}/fd")
        fd.mkdir()
        (fd / "3").symlink_to(f"socket:[{inode}]")


def test_a_sound_bare_host_has_no_error(host):
    assert errors(host, ports=[PROMETHEUS]) == []


def test_all_faults_are_told_at_once(host):
    host.write("/etc/os-release", "ID=fedora\nVERSION_ID=43\n")
    host.write("/proc/meminfo", "MemTotal: 500000 kB\n")
    host.free = 10
    host.write("/sys/fs/cgroup/cgroup.controllers", "cpuset io\n")
    host.unreachable["deb.example.org"] = "cannot resolve deb.example.org"
    listen(host, 9090)
    assert errors(host, ports=[PROMETHEUS]) == ["distribution", "memory", "disk-var", "cgroups", "network", "port-9090"]


def test_every_finding_that_is_not_ok_has_evidence_cause_and_cure(tmp_path):
    nothing = FakeHost(tmp_path)
    nothing.user, nothing.clock, nothing.name, nothing.free = 1000, 0.0, "no_name!", 0
    bad = [
        one
        for check in (
            "distribution",
            "init",
            "root",
            "hostname",
            "clock",
            "memory",
            "disk",
            "cgroups",
            "network",
            "dpkg",
        )
        for one in found(nothing, check)
    ]
    assert len(bad) == 10
    assert all(not one["ok"] and one["evidence"] and one["cause"] and one["cure"] for one in bad)


@pytest.mark.parametrize(
    ("release", "ok", "severity"),
    [
        ("ID=debian\nVERSION_ID=12\n", True, "error"),
        ('ID=debian\nVERSION_ID="13"\n', True, "error"),
        ("ID=ubuntu\nVERSION_ID=24.04\n", False, "warning"),
        ("ID=debian\nVERSION_ID=11\n", False, "error"),
        ("", False, "error"),
    ],
)
def test_only_distributions_that_we_ran_on_pass_without_a_word(host, release, ok, severity):
    host.write("/etc/os-release", release)
    [one] = found(host, "distribution")
    assert (one["ok"], one["severity"]) == (ok, severity)


def test_a_container_with_another_init_is_told(host):
    host.write("/proc/1/comm", "tini\n")
    [one] = found(host, "init")
    assert not one["ok"] and "tini" in one["evidence"]


@pytest.mark.parametrize(
    ("kib", "ok", "severity"),
    [(500_000, False, "error"), (1_000_000, False, "warning"), (2_000_000, True, "error")],
)
def test_memory_of_a_512_mib_machine_is_an_error_of_a_1_gib_machine_a_warning(host, kib, ok, severity):
    host.write("/proc/meminfo", f"MemTotal: {kib} kB\n")
    [one] = found(host, "memory")
    assert (one["ok"], one["severity"]) == (ok, severity)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("/sys/fs/cgroup/memory.max", "536870912\n"),
        ("/sys/fs/cgroup/memory/memory.stat", "cache 1\nhierarchical_memory_limit 536870912\n"),
    ],
)
def test_memory_is_what_the_control_group_allows(host, name, text):
    host.write(name, text)
    [one] = found(host, "memory")
    assert not one["ok"] and one["severity"] == "error" and "512 MiB (limit" in one["evidence"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("/sys/fs/cgroup/memory.max", "max\n"),
        ("/sys/fs/cgroup/memory/memory.stat", "hierarchical_memory_limit 9223372036854771712\n"),
    ],
)
def test_no_limit_is_no_limit(host, name, text):
    host.write(name, text)
    [one] = found(host, "memory")
    assert one["ok"] and "limit" not in one["evidence"]


def test_a_deployed_host_needs_less_free_disk(host):
    host.free = 1000
    assert not found(host, "disk")[0]["ok"]
    host.write("/etc/casemate/release.json", "{}")
    assert found(host, "disk")[0]["ok"]


def test_v1_controllers_mounted_read_only_are_told_with_the_remount(host):
    host.path("/sys/fs/cgroup/cgroup.controllers").unlink()
    host.write(
        "/proc/self/mounts",
        "cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0\n"
        "cgroup /sys/fs/cgroup/memory cgroup ro,memory 0 0\n"
        "cgroup /sys/fs/cgroup/pids cgroup rw,pids 0 0\n",
    )
    [one] = found(host, "cgroups")
    assert one["evidence"] == "v1: memory read-only" and "remount,bind,rw /sys/fs/cgroup/$c" in one["cure"]


def test_v1_without_controllers_is_one_finding_naming_them_all(host):
    host.path("/sys/fs/cgroup/cgroup.controllers").unlink()
    [one] = found(host, "cgroups")
    assert one["evidence"] == "v1: cpu absent, memory absent, pids absent"


def test_v2_mounted_read_only_is_told(host):
    host.write("/proc/self/mounts", "cgroup2 /sys/fs/cgroup cgroup2 ro,nosuid 0 0\n")
    assert not found(host, "cgroups")[0]["ok"]


def test_a_port_taken_by_a_stranger_names_process_and_unit(host):
    listen(host, 9090, pid=4242, unit="other.service")
    [one] = found(host, "port", ports=[PROMETHEUS])
    assert one["id"] == "port-9090" and not one["ok"]
    assert "squatter (process 4242, other.service)" in one["evidence"]
    assert "systemctl disable --now other.service" in one["cure"] and "monitoring_prometheus_port" in one["cure"]


def test_a_port_held_by_our_own_service_is_fine(host):
    listen(host, 9090, pid=4242, unit="prometheus.service")
    assert found(host, "port", ports=[PROMETHEUS])[0]["ok"]


@pytest.mark.parametrize(("address", "ok"), [("00000000", False), ("0100007F", False), ("0A00570A", True)])
def test_a_listener_on_another_address_leaves_the_port_free(host, address, ok):
    listen(host, 9090, address=address)
    assert found(host, "port", ports=[PROMETHEUS])[0]["ok"] is ok


def test_a_listener_on_any_ipv6_address_takes_the_port(host):
    listen(host, 9090, address="0" * 32)
    host.path("/proc/net/tcp").rename(host.path("/proc/net/tcp6"))
    assert not found(host, "port", ports=[PROMETHEUS])[0]["ok"]


def test_a_connection_from_a_port_is_no_listener(host):
    listen(host, 9090)
    host.write("/proc/net/tcp", host.read("/proc/net/tcp").replace(" 0A ", " 01 "))
    assert found(host, "port", ports=[PROMETHEUS])[0]["ok"]


def test_a_host_port_of_a_pod_is_looked_at(host):
    listen(host, 8080, address="0A00570A")
    [one] = found(host, "port", host_ports=[8080])
    assert one["id"] == "port-8080" and not one["ok"] and "a pod" in one["cause"]


def test_an_unreachable_mirror_is_one_finding_and_not_looked_for_offline(host):
    host.unreachable["deb.example.org"] = "cannot resolve deb.example.org"
    [one] = found(host, "network")
    assert not one["ok"] and "no default route" in one["cause"]
    assert found(host, "network", offline=True)[0]["ok"]


def test_behind_a_proxy_only_the_proxy_must_be_reachable(host):
    host.unreachable["deb.example.org"] = "filtered"
    host.programs["apt-config dump"] = Result(0, 'Acquire::http::Proxy "http://proxy.example.org:3128/";\n')
    assert found(host, "network")[0]["ok"]
    host.unreachable["proxy.example.org"] = "refused"
    assert "apt's proxy" in found(host, "network")[0]["evidence"]


def test_a_proxy_for_one_address_and_direct_for_another_are_told_apart(host):
    host.programs["apt-config dump"] = Result(
        0,
        'Acquire::http::Proxy "http://proxy.example.org:3128/";\nAcquire::http::Proxy::deb.example.org "DIRECT";\n',
    )
    host.unreachable["deb.example.org"] = "filtered"
    assert "a package source" in found(host, "network")[0]["evidence"]


def test_a_proxy_that_a_program_chooses_is_not_guessed(host):
    host.programs["apt-config dump"] = Result(0, 'Acquire::http::Proxy-Auto-Detect "/usr/bin/choose";\n')
    host.unreachable["deb.example.org"] = "filtered"
    assert found(host, "network")[0]["ok"]


def test_a_deployed_host_that_is_cut_off_is_only_warned(host):
    host.unreachable["deb.example.org"] = "filtered"
    assert found(host, "network")[0]["severity"] == "error"
    host.write("/etc/casemate/release.json", "{}")
    assert found(host, "network")[0]["severity"] == "warning"


def test_a_host_without_package_sources_is_told(host):
    host.write("/etc/apt/sources.list", "# nothing\n")
    assert "no package source" in found(host, "network")[0]["evidence"]


def test_an_interrupted_dpkg_is_a_warning_with_its_packages_since_a_deploy_goes_on_there(host):
    host.programs["dpkg "] = Result(1, "The following packages are only half configured\n containerd  engine\n")
    [one] = found(host, "dpkg")
    assert not one["ok"] and one["severity"] == "warning"
    assert "containerd" in one["evidence"] and "dpkg --configure -a" in one["cure"]


def test_journal_files_of_dpkg_tell_an_interrupted_installation(host):
    host.write("/var/lib/dpkg/updates/0001", "")
    assert not found(host, "dpkg")[0]["ok"]
    assert facts.gather(host, Settings())["dpkg_unfinished"] == ["/var/lib/dpkg/updates/0001"]


def test_a_broken_dpkg_database_is_an_error(host):
    host.programs["dpkg "] = Result(2, err="dpkg: error: parsing file '/var/lib/dpkg/status'")
    assert errors(host) == ["dpkg"]


def test_a_held_dpkg_lock_is_a_warning_and_looking_does_not_take_it(host):
    host.write("/var/lib/dpkg/lock-frontend", "")
    assert found(host, "dpkg-lock")[0]["ok"]
    with host.path("/var/lib/dpkg/lock-frontend").open("r+") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        child = os.fork()
        if child == 0:  # a process does not see its own lock
            [one] = found(host, "dpkg-lock")
            os._exit(0 if not one["ok"] and one["severity"] == "warning" else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("name", ["dockerd", "kubelet"])
def test_another_engine_is_a_warning(host, name):
    host.write("/proc/55/comm", name + "\n")
    [one] = found(host, "other-engine")
    assert one["severity"] == "warning" and name in one["cure"]


def test_dockers_own_containerd_package_is_an_error(host):
    host.programs["dpkg-query"] = Result(0, "ii ")
    assert errors(host) == ["other-engine-containerd.io"]


@pytest.mark.parametrize(
    ("name", "ok"), [("edge1", True), ("edge-1.site.example", True), ("bad_name", False), ("-x", False)]
)
def test_host_names_follow_the_rfc(host, name, ok):
    host.name = name
    assert found(host, "hostname")[0]["ok"] is ok


def test_a_clock_before_the_release_is_an_error_one_beside_the_admins_a_warning(host):
    assert found(host, "clock", admin_time=host.clock + 10)[0]["ok"]
    assert found(host, "clock", admin_time=host.clock + 1000)[0]["severity"] == "warning"
    host.clock = 1_000_000_000.0
    assert found(host, "clock")[0]["severity"] == "error"


def test_not_being_root_is_told(host):
    host.user = 1000
    assert not found(host, "root")[0]["ok"]


def test_a_check_that_breaks_is_a_finding_and_hides_no_other(host, monkeypatch):
    monkeypatch.setattr(host, "hostname", lambda: 1 / 0)
    host.write("/proc/meminfo", "MemTotal: 500000 kB\n")
    [one] = found(host, "hostname")
    assert one["severity"] == "warning" and "ZeroDivisionError" in one["evidence"]
    assert errors(host) == ["memory"]


def test_a_name_that_is_not_resolved_for_a_moment_is_asked_for_again(monkeypatch):
    import socket

    from appliance.node.health.host import Host as RealHost

    calls = []

    def create_connection(address, timeout):
        calls.append(address)
        if len(calls) == 1:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return socket.socket()

    monkeypatch.setattr(socket, "create_connection", create_connection)
    assert RealHost().connect("mirror.example", 80, timeout=4) is None
    assert len(calls) == 2
