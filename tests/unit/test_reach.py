"""How a program is run on an inventory's host, and which host has a pod."""

import sys
from pathlib import Path

import pytest

from appliance import reach, workloads
from appliance.errors import CasemateError, UnreachableError, UsageError
from appliance.inventory import Host, Inventory
from appliance.reach import Answer, argv, ask
from appliance.schema import UNKNOWN

WORDS = ["echo", "a  b", "$HOME"]


def host(name: str = "h", **variables: object) -> Host:
    return Host(name, variables, ())


def test_ssh_is_called_with_what_the_inventory_says_and_the_words_as_they_are():
    words = argv(
        host(
            ansible_host="192.0.2.9", ansible_port=2222, ansible_user="me", ansible_private_key_file="~/key",
            ansible_ssh_common_args="-o ProxyJump='a b'", ansible_become=True,
        ),
        WORDS,
        terminal=True,
    )  # fmt: skip
    assert words[0] == "ssh"
    for pair in (["-p", "2222"], ["-l", "me"], ["-i", str(Path.home() / "key")], ["-o", "ProxyJump=a b"]):
        assert pair in [words[i : i + 2] for i in range(len(words))]
    assert words[-4:] == ["-t", "--", "192.0.2.9", "sudo -n -- echo 'a  b' '$HOME'"]


def test_a_local_host_needs_no_connection():
    assert argv(host(ansible_connection="local"), WORDS) == WORDS


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"ansible_password": "x"}, "by key"),
        ({"ansible_connection": "winrm"}, "winrm"),
        ({"ansible_become": True, "ansible_become_method": "doas"}, "doas"),
        ({"ansible_host": UNKNOWN}, "ansible_host"),
    ],
)
def test_a_way_that_is_not_known_is_refused_by_name(variables, words):
    with pytest.raises(UsageError, match=words):
        argv(host(**variables), WORDS)


def test_a_lab_host_that_is_down_is_unreachable(tmp_path):
    with pytest.raises(UnreachableError):
        argv(host(ansible_connection="casemate_nspawn", ansible_nspawn_directory=str(tmp_path)), WORDS)


@pytest.fixture
def ssh(tmp_path):
    """A stand-in for ssh: runs the last argument in a shell, as sshd does; `down` as the address fails as ssh does."""
    program = tmp_path / "ssh"
    program.write_text(
        '#!/bin/sh\nfor last; do :; done\ncase "$*" in *" down "*) exit 255;; esac\nexec sh -c "$last"\n'
    )
    program.chmod(0o755)
    return str(program)


def test_hosts_are_asked_together_and_answer_in_order(ssh):
    script = "import json, sys; print(json.dumps(sys.argv[1:]))"
    hosts = [host("one", ansible_ssh_executable=ssh), host("down", ansible_ssh_executable=ssh)]
    one, down = ask(hosts, sys.executable, "-c", script, *WORDS)
    assert (one.value, one.error, one.unreachable) == (WORDS, "", False)
    assert (down.value, down.unreachable) == (None, True)


def test_a_program_that_is_not_there_says_what_installs_it(ssh):
    (answer,) = ask([host(ansible_ssh_executable=ssh)], "/no/such/program")
    assert "appliance deploy" in answer.error and not answer.unreachable


def row(name: str, namespace: str = "default") -> dict:
    return {"name": name, "namespace": namespace}


@pytest.fixture
def site(monkeypatch):
    """An inventory whose hosts answer as given."""

    def make(*answers: Answer) -> Inventory:
        monkeypatch.setattr(workloads, "ask", lambda hosts, *command: list(answers))
        return Inventory(tuple(answer.host for answer in answers), (Path("site.yml"),))

    return make


A, B = host("a"), host("b")


def test_the_host_that_has_the_pod_is_found_by_name_and_namespace(site):
    inventory = site(Answer(A, [row("x"), row("web", "shop")]), Answer(B, [row("y")]))
    assert workloads.host_of("y", inventory) is B
    assert workloads.host_of("shop/web", inventory) is A


def test_a_pod_on_several_hosts_is_an_error_that_names_them_and_the_option(site):
    with pytest.raises(UsageError) as error:
        workloads.host_of("x", site(Answer(A, [row("x")]), Answer(B, [row("x")])))
    assert "a, b" in error.value.message and "--limit" in error.value.cure


def test_a_pod_that_is_nowhere_is_a_usage_error_with_what_there_is(site):
    with pytest.raises(UsageError) as error:
        workloads.host_of("z", site(Answer(A, [row("x")]), Answer(B, [])))
    assert "a: x; b: none" in error.value.cure


def test_a_pod_may_be_on_the_host_that_did_not_answer(site):
    with pytest.raises(UnreachableError, match="b: no route"):
        workloads.host_of("z", site(Answer(A, [row("x")]), Answer(B, error="no route", unreachable=True)))
    with pytest.raises(CasemateError) as error:
        workloads.host_of("z", site(Answer(A, error="the engine is down")))
    assert error.value.exit_code == 1
    assert workloads.host_of("x", site(Answer(A, [row("x")]), Answer(B, error="no", unreachable=True))) is A


def test_a_program_that_was_stopped_is_woken(monkeypatch):
    """As nsenter is stopped when its lab host goes down."""
    monkeypatch.setattr(reach, "_WAKE_SECONDS", 0.05)
    monkeypatch.setattr(reach, "argv", lambda host, command: command)
    (answer,) = reach.ask([Host("h", {}, ())], "sh", "-c", "kill -STOP $$; echo 1")
    assert answer.value == 1
