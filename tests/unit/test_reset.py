"""Reset removes what is ours and leaves what is not: rules, files, records."""

import pytest

from appliance.node.reset import base, engine, records
from appliance.node.reset.remover import Remover

ID = "a" * 64
COMMON = """\
:PREROUTING ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:CNI-HOSTPORT-DNAT - [0:0]
:CNI-HOSTPORT-MASQ - [0:0]
:CNI-HOSTPORT-SETMARK - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
-A PREROUTING -p tcp -m tcp --dport 81 -j DNAT --to-destination 192.0.2.1:81
-A POSTROUTING -m comment --comment "CNI portfwd requiring masquerade" -j CNI-HOSTPORT-MASQ
-A CNI-HOSTPORT-MASQ -m mark --mark 0x2000/0x2000 -j MASQUERADE
-A CNI-HOSTPORT-SETMARK -m comment --comment "CNI portfwd masquerade mark" -j MARK --set-xmark 0x2000/0x2000
"""


def network(name: str, number: str) -> str:
    """iptables-save's lines of one pod of a network."""
    comment = f'-m comment --comment "name: \\"{name}\\" id: \\"{ID}\\""'
    return f"""\
:CNI-{number} - [0:0]
:CNI-DN-{number} - [0:0]
-A POSTROUTING -s 10.0.0.2/32 {comment} -j CNI-{number}
-A CNI-{number} -d 10.0.0.0/24 {comment} -j ACCEPT
-A CNI-DN-{number} -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.0.0.2:80
-A CNI-HOSTPORT-DNAT -p tcp -m comment --comment "dnat name: \\"{name}\\" id: \\"{ID}\\"" -j CNI-DN-{number}
"""


@pytest.fixture
def iptables(monkeypatch):
    """Runs the removal of the network "casemate" on a saved nat table; the commands that change it, as text."""

    def call(saved: str) -> list[str]:
        commands = []

        def run(*argv: str, check: bool = True) -> str:
            if argv[0] == "iptables-save":
                return saved
            commands.append(" ".join(argv[3:]))
            return ""

        monkeypatch.setattr(engine, "run", run)
        engine._rules(Remover(check=False), "iptables", "casemate")
        return commands

    return call


def test_rules_of_another_network_and_of_the_admin_stay(iptables):
    commands = iptables(COMMON + network("casemate", "aa11") + network("other", "bb22"))
    assert commands
    assert not [c for c in commands if "bb22" in c or "other" in c or "192.0.2.1" in c or "HOSTPORT-MASQ" in c]
    assert "-X CNI-aa11" in commands
    assert "-X CNI-DN-aa11" in commands


def test_portmaps_chains_go_with_the_last_network(iptables):
    commands = iptables(COMMON + network("casemate", "aa11"))
    assert "-X CNI-HOSTPORT-DNAT" in commands
    assert "-D PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT" in commands
    assert not [c for c in commands if "192.0.2.1" in c]


def test_no_built_in_chain_is_ever_flushed(iptables):
    commands = iptables(COMMON + network("casemate", "aa11"))
    assert {c.split()[1] for c in commands if c.startswith(("-F", "-X"))} == {
        "CNI-aa11", "CNI-DN-aa11", "CNI-HOSTPORT-DNAT", "CNI-HOSTPORT-MASQ", "CNI-HOSTPORT-SETMARK",
    }  # fmt: skip


@pytest.fixture
def state(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "STATE", tmp_path / "state")
    monkeypatch.setattr(records, "ORIGINALS", tmp_path / "state/originals")
    monkeypatch.setattr(records, "CONFIG", tmp_path / "config")
    (tmp_path / "state").mkdir()
    return tmp_path / "state"


def test_a_file_that_was_there_before_is_put_back(state, tmp_path):
    ours = tmp_path / "x.conf"
    ours.write_text("ours\n")
    kept = records.ORIGINALS / ours.relative_to("/")
    kept.parent.mkdir(parents=True)
    kept.write_text("the admin's\n")
    kept.chmod(0o600)
    for _again in range(2):  # a reset that was cut off is run again
        base.put_back(Remover(check=False), ours)
        assert ours.read_text() == "the admin's\n"
        assert ours.stat().st_mode & 0o777 == 0o600


def test_under_check_nothing_goes_and_all_is_named(state, tmp_path):
    ours = tmp_path / "x.conf"
    ours.write_text("ours\n")
    remover = Remover(check=True)
    base.put_back(remover, ours)
    assert remover.removed == [str(ours)]
    assert ours.exists()


def test_a_package_that_was_there_before_and_was_brought_back_is_ours(state):
    (state / "packages-before").write_text("dash\nrunc\n")
    (state / "packages-installed").write_text("runc\ncontainerd\ncontainerd\n")
    assert records.packages_installed() == {"runc", "containerd"}
    assert records.packages_before() == {"dash"}
