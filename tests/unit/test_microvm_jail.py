"""What runs on the host for a pod: the jail and the stand-ins."""

from appliance.node.microvm import jail
from tests.unit.test_microvm_spec import SANDBOX, WORKLOAD


def make_jail(**changes):
    arguments = {
        "root": "/r", "state": "/s", "guest": "/g", "template": None, "template_writable": False,
        "uid": 5, "gid": 6, "devices": [], "argv": ["supervise"], "vcpus": 2,
    }  # fmt: skip
    return jail.jail(SANDBOX, **(arguments | changes))


def mount_options(config, destination):
    return next(m["options"] for m in config["mounts"] if m["destination"] == destination)


def test_the_jail_has_no_root_no_writable_usr_and_no_capability_of_the_sandbox():
    jail = make_jail()
    assert jail["process"]["user"] == {"uid": 5, "gid": 6}
    assert jail["process"]["noNewPrivileges"] is True
    assert "CAP_SYS_ADMIN" not in jail["process"]["capabilities"]["bounding"]
    assert jail["root"] == {"path": "/r", "readonly": True}
    assert "ro" in mount_options(jail, "/usr")
    assert "ro" in mount_options(jail, "/run/pod/guest")


def test_the_jail_stays_in_the_pods_namespaces_and_cgroup():
    jail = make_jail()
    assert jail["linux"]["namespaces"] == SANDBOX["linux"]["namespaces"]
    assert jail["linux"]["cgroupsPath"] == "/k8s/S"
    assert jail["hostname"] == "pod"


def test_the_jail_may_use_its_devices_and_no_others():
    tun = {"path": "/dev/net/tun", "type": "c", "major": 10, "minor": 200, "fileMode": 384, "uid": 5, "gid": 6}
    rules = make_jail(devices=[tun])["linux"]["resources"]["devices"]
    assert rules[0] == {"allow": False, "access": "rwm"}
    assert [(r["major"], r["minor"]) for r in rules[1:]] == [(10, 200)]


def test_a_template_is_writable_in_the_jail_only_where_an_old_qemu_needs_it():
    assert "ro" in mount_options(make_jail(template="/t"), "/run/pod/template")
    assert "rw" in mount_options(make_jail(template="/t", template_writable=True), "/run/pod/template")


def test_a_stand_in_carries_nothing_of_the_workload():
    stand_in = jail.stand_in(WORKLOAD, root="/r", state="/s", uid=5, gid=6, argv=["stand-in", "C"])
    text = str(stand_in)
    assert "SECRET" not in text and "/srv" not in text
    assert stand_in["process"]["capabilities"] == {}
    assert stand_in["process"]["oomScoreAdj"] == 1000
    assert "memory" not in stand_in["linux"]["resources"]
    assert stand_in["linux"]["resources"]["cpu"] == make_jail(vcpus=1)["linux"]["resources"]["cpu"]
    assert stand_in["linux"]["cgroupsPath"] == "/k8s/C"
