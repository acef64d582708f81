"""The verbs' help, their examples, the pages that list them, and what the command line refuses."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from appliance import __version__, cli
from appliance.commands import deploy, doctor, plan, pods, status
from appliance.errors import CasemateError
from appliance.events import HostOutcome, Outcome
from appliance.inventory import load
from appliance.reach import Answer

HERE = Path(__file__).parents[2]
ROOT = click.Context(cli.appliance, info_name="appliance")


def leaves(command: click.Command = cli.appliance, words: tuple = ()) -> list[tuple[tuple, click.Command]]:
    """Every command that does something, with the words that call it."""
    if not isinstance(command, click.Group):
        return [(words, command)]
    context = click.Context(command, info_name="x")
    found = []
    for name in command.list_commands(context):
        found += leaves(command.get_command(context, name), (*words, name))
    return found


def examples(text: str) -> list[str]:
    """The lines of a help text that call `appliance`, without pipes, redirections and remarks."""
    lines = re.findall(r"^ +(appliance .*)$", text, re.MULTILINE)
    return [re.split(r" {2,}|\s[|>]\s", line)[0] for line in lines]


def parse(words: list[str]) -> None:
    """Have click parse a command line without running it; raises what click says of a wrong one."""
    command, context = cli.appliance, ROOT
    while isinstance(command, click.Group) and words:
        name, *words = words
        command = command.get_command(context, name)
        assert command is not None, f"no verb {name}"
    command.make_context("appliance", list(words), parent=context)


def run(*argv: str, cwd: Path = HERE, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "appliance", *argv],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(HERE), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


VERBS = leaves()


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_has_its_own_file_with_a_docstring_and_help_with_examples(verb):
    module = __import__(f"appliance.commands.{verb}", fromlist=["command"])
    assert f"appliance {verb}" in module.__doc__
    help = module.command.get_help(click.Context(module.command, info_name=verb))
    assert "Examples:" in help
    assert examples(help)


@pytest.mark.parametrize("verb", cli.VERBS)
def test_the_examples_in_a_verbs_help_are_accepted_by_the_command_line(verb):
    command = cli.appliance.get_command(ROOT, verb)
    for line in examples(command.help):
        parse(shlex.split(line)[1:])


def test_the_examples_of_the_first_page_are_accepted_too():
    found = examples(cli.appliance.help)
    assert len(found) >= 4
    for line in found:
        parse(shlex.split(line)[1:])


@pytest.mark.parametrize(("words", "command"), VERBS, ids=[" ".join(w) for w, _ in VERBS])
def test_every_option_says_what_it_is_for(words, command):
    silent = [p.name for p in command.params if isinstance(p, click.Option) and not p.help and not p.show_default]
    assert silent == []
    assert command.help


@pytest.mark.parametrize("verb", ["plan", "deploy", "status", "doctor", "pods", "reset"])
def test_a_verb_on_hosts_has_the_common_options(verb):
    command = cli.appliance.get_command(ROOT, verb)
    options = {option for p in command.params for option in p.opts}
    assert {"-i", "--inventory", "--limit", "-o", "--output"} <= options


def test_the_readme_lists_exactly_the_verbs_that_there_are():
    table = re.findall(r"^\| `appliance (\w+)", (HERE / "README.md").read_text(), re.MULTILINE)
    assert sorted(table) == sorted(cli.VERBS)


@pytest.mark.parametrize("page", [HERE / "README.md", *sorted((HERE / "docs").glob("*.md"))], ids=lambda p: p.name)
def test_every_command_line_on_a_page_is_one_that_the_command_accepts(page):
    fences = re.findall(r"^```(?:sh|shell|bash|console)?\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    lines = [
        line for fence in fences for line in re.findall(r"^(?:[#$] )?(?:\.venv/bin/)?(appliance .*)$", fence, re.M)
    ]
    for line in lines:
        line = re.split(r"\s{2,}|\s[|>#]\s|\s#", line)[0]
        parse(shlex.split(line)[1:])


def test_version_and_help_end_with_0_and_start_fast_without_ansible():
    assert run("--version").stdout.strip().endswith(__version__)
    done = run("--help")
    assert done.returncode == 0
    assert all(verb in done.stdout for verb in cli.VERBS)
    program = "import sys, appliance.cli as c; c.appliance.get_command(None, 'lab'); print('ansible' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", program], cwd=HERE, text=True).strip() == "False"


@pytest.mark.parametrize(
    "argv",
    [
        ["fly"],
        ["deploy", "--no-such-option"],
        ["deploy", "-o", "yaml"],
        ["deploy", "extra"],
        ["lab", "up", "--hosts", "0"],
        ["lab", "up", "--release", "potato"],
        ["completion", "tcsh"],
        ["completion"],
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_ends_with_2_and_says_what_is_wrong(argv):
    done = run(*argv)
    assert done.returncode == 2
    assert "Error:" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("verb", ["plan", "deploy", "status", "doctor"])
def test_an_inventory_that_is_not_there_ends_with_2_and_is_named(verb, tmp_path):
    done = run(verb, "-i", "no-such-site", cwd=tmp_path)
    assert done.returncode == 2
    assert "no-such-site" in done.stderr
    assert "Traceback" not in done.stderr


def test_with_json_an_error_is_one_object_on_stdout(tmp_path):
    done = run("deploy", "-o", "json", "-i", "no-such-site", cwd=tmp_path)
    assert done.returncode == 2
    answer = json.loads(done.stdout)
    assert {"error", "place", "cure"} <= set(answer)
    assert "no-such-site" in json.dumps(answer)


def test_a_limit_that_matches_no_host_ends_with_2(tmp_path):
    (tmp_path / "site.yml").write_text("appliance:\n  hosts:\n    edge1:\n      ansible_host: 192.0.2.11\n")
    done = run("deploy", "-i", "site.yml", "--limit", "edge9", cwd=tmp_path)
    assert done.returncode == 2
    assert "edge9" in done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_name_the_command_and_its_variable(shell):
    done = run("completion", shell)
    assert done.returncode == 0
    assert "_APPLIANCE_COMPLETE" in done.stdout and "appliance" in done.stdout


def test_completion_knows_verbs_and_options():
    done = run(_APPLIANCE_COMPLETE="bash_complete", COMP_WORDS="appliance de", COMP_CWORD="1")
    assert "deploy" in done.stdout, done.stderr
    assert "plan" not in done.stdout


# --- results, with the hosts' answers given


STATUS = {
    "release": "0.1.0",
    "health": "ok",
    "components": [{"name": "containerd", "version": "1.6.20", "state": "running"}],
    "pods": [
        {
            "name": "demo", "runtime": "microvm", "ready": True, "ip": "10.86.0.2",
            "guest_kernel": "6.1.0-9", "restarts": 0,
        }
    ],
}  # fmt: skip
CHECK = {"id": "memory", "severity": "error", "ok": True, "evidence": "24 GiB", "cause": "", "cure": ""}
FINDING = {**CHECK, "ok": False, "evidence": "[512] MiB", "cause": "too little", "cure": "add memory"}


@pytest.fixture
def site(tmp_path):
    """An inventory of two hosts; `load`ed for real, never reached."""
    path = tmp_path / "site.yml"
    path.write_text(
        "appliance:\n  hosts:\n    h1:\n      ansible_host: 192.0.2.1\n    h2:\n      ansible_host: 192.0.2.2\n"
    )
    assert [h.name for h in load([path], None, content=HERE).hosts] == ["h1", "h2"]
    return path


@pytest.fixture
def answered(monkeypatch):
    """Sets what the hosts answer to status and doctor: name to answer; None for a host that was not reached."""

    def set_answers(**answers: dict | None) -> None:
        outcome = Outcome(
            {n: HostOutcome(n, seen=True, unreachable=a is None) for n, a in answers.items()}, finished=True
        )
        lines = [
            {"name": n, "health": "unreachable", "error": "no route"} if a is None else {"name": n, **a}
            for n, a in answers.items()
        ]
        for module in (status, doctor):
            monkeypatch.setattr(module, "ask", lambda what, inventory, *rest: (lines, outcome))

    return set_answers


def result(command: click.Command, *argv: str):
    return CliRunner().invoke(command, list(argv))


def test_status_has_the_documented_shape(site, answered):
    answered(h1=STATUS)
    done = result(status.command, "-i", str(site), "-o", "json")
    host = json.loads(done.stdout)["hosts"][0]
    assert done.exit_code == 0
    assert set(host) >= {"name", "release", "health", "components", "pods"}
    assert set(host["components"][0]) >= {"name", "version", "state"}
    assert set(host["pods"][0]) >= {"name", "runtime", "ready", "ip", "guest_kernel", "restarts"}


def test_a_host_that_cannot_be_asked_is_in_the_status_with_the_same_keys_and_the_exit_code_is_4(site, answered):
    answered(h1=STATUS, h2=None)
    done = result(status.command, "-i", str(site), "-o", "json")
    hosts = json.loads(done.stdout)["hosts"]
    assert done.exit_code == 4
    assert (hosts[1]["health"], hosts[1]["components"], hosts[1]["pods"]) == ("unreachable", [], [])
    assert hosts[1]["error"] == "no route"


def test_status_as_text_names_what_a_person_looks_for(site, answered):
    answered(h1=STATUS)
    text = result(status.command, "-i", str(site)).stdout
    for word in ("h1", "ok", "containerd", "1.6.20", "demo", "microvm", "10.86.0.2", "6.1.0-9"):
        assert word in text


def test_doctor_has_the_documented_shape_and_ends_with_1_at_an_error(site, answered):
    answered(h1={"checks": [FINDING]}, h2={"checks": [CHECK]})
    done = result(doctor.command, "-i", str(site), "-o", "json")
    hosts = json.loads(done.stdout)["hosts"]
    assert done.exit_code == 1
    assert hosts[0] == {"name": "h1", "checks": [FINDING]}
    assert set(hosts[0]["checks"][0]) == {"id", "severity", "ok", "evidence", "cause", "cure"}


@pytest.mark.parametrize(
    ("check", "code"), [(CHECK, 0), ({**FINDING, "severity": "warning"}, 0), ({**FINDING, "severity": "info"}, 0)]
)
def test_doctor_ends_with_0_without_an_error(site, answered, check, code):
    answered(h1={"checks": [check]})
    assert result(doctor.command, "-i", str(site)).exit_code == code


def test_doctor_as_text_shows_findings_with_cause_and_cure_and_the_rest_only_when_asked(site, answered):
    answered(h1={"checks": [FINDING, {**CHECK, "id": "disk"}]})
    text = result(doctor.command, "-i", str(site)).stdout
    assert "[512] MiB" in text and "too little" in text and "add memory" in text
    assert "disk" not in text
    assert "disk" in result(doctor.command, "-i", str(site), "--all").stdout


LONG = "no answer [/dev/sda] from " + "x" * 120 + " [Errno 111]"


def test_what_a_host_said_is_printed_whole_in_one_line_and_as_it_is(site, answered):
    """Nobody's words are taken for markup, and off a terminal nothing is wrapped or cut."""
    answered(h1={"health": "unknown", "error": LONG})
    for command in (status.command, doctor.command):
        assert LONG in result(command, "-i", str(site)).stdout
    answered(h1={"checks": [{**FINDING, "evidence": LONG}]})
    assert LONG in result(doctor.command, "-i", str(site)).stdout
    answered(h1={**STATUS, "findings": [{**FINDING, "evidence": LONG}]})
    assert LONG in result(status.command, "-i", str(site)).stdout


def test_a_pods_long_name_is_not_cut_off_a_terminal(site, answered):
    pod = {**STATUS["pods"][0], "name": "a-pod-" + "y" * 57, "guest_kernel": "6.12.48+deb13-cloud-amd64"}
    answered(h1={**STATUS, "pods": [pod]})
    text = result(status.command, "-i", str(site)).stdout
    assert pod["name"] in text and pod["guest_kernel"] in text


@pytest.fixture
def changes(monkeypatch):
    """Makes plan and deploy end with so many changes on each host, without Ansible."""

    def set_changes(**counts: int) -> None:
        outcome = Outcome({n: HostOutcome(n, changed=c, seen=True) for n, c in counts.items()}, finished=True)

        def play(playbook, inventory, *, verb, on_event, **options):
            on_event({"event": "start", "time": 0.0, "verb": verb, "hosts": list(counts)})
            on_event({"time": 1.0, **outcome.summary()})
            return outcome

        for module in (plan, deploy):
            monkeypatch.setattr(module, "run_playbook", play)

    return set_changes


@pytest.mark.parametrize(("count", "code"), [(0, 0), (2, 3)])
def test_plan_tells_by_its_exit_code_whether_there_are_changes_when_asked(site, changes, count, code):
    changes(h1=0, h2=count)
    assert result(plan.command, "-i", str(site)).exit_code == 0
    assert result(plan.command, "-i", str(site), "--detailed-exitcode").exit_code == code


@pytest.mark.parametrize("command", [plan.command, deploy.command], ids=["plan", "deploy"])
def test_the_last_json_line_of_a_run_is_the_summary(site, changes, command):
    changes(h1=1, h2=0)
    done = result(command, "-i", str(site), "-o", "json")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines[-1]["event"] == "summary"
    assert lines[-1]["hosts"] == [
        {"name": "h1", "changed": 1, "failed": 0, "state": "changed"},
        {"name": "h2", "changed": 0, "failed": 0, "state": "ok"},
    ]


def test_an_error_object_has_the_documented_keys():
    assert CasemateError("x", place="here", cure="do").as_dict() == {"error": "x", "place": "here", "cure": "do"}


def test_pods_as_text_shows_use_and_cost_and_the_containers_of_one(site, monkeypatch):
    use = {"cpu": 0.5, "cpu_seconds": 9.0, "memory_bytes": 90 << 20, "working_set_bytes": 64 << 20}
    demo = {
        "name": "demo", "namespace": "default", "runtime": "microvm", "ready": True, "state": "running",
        "ip": "10.86.0.2", "restarts": 0, "sandbox_id": "x", "reason": "[odd] reason",
        "host": use | {"cpu": 0.75, "working_set_bytes": 200 << 20}, "containers": {"web": use, "side": use},
    }  # fmt: skip
    starting = demo | {"name": "new", "host": None, "containers": None, "ip": "", "reason": ""}

    def ask(hosts, *command):
        return [Answer(hosts[0], [demo, starting]), Answer(hosts[1], error="no route [1]", unreachable=True)]

    monkeypatch.setattr(pods, "ask", ask)
    done = result(pods.command, "-i", str(site))
    assert done.exit_code == 4
    assert re.search(r"demo +microvm +ready +0 +1\.00 +128 MiB +0\.75 +200 MiB", done.stdout)
    assert re.search(r"new .* - +- +- +- *$", done.stdout, re.MULTILINE)
    assert "[odd] reason" in done.stdout and "no route [1]" in done.stdout and "side" not in done.stdout
    one = result(pods.command, "-i", str(site), "demo").stdout
    assert re.search(r"side +0\.50 +64 MiB", one) and "new" not in one
    shape = json.loads(result(pods.command, "-i", str(site), "-o", "json").stdout)["hosts"]
    assert shape == [{"name": "h1", "pods": [demo, starting]}, {"name": "h2", "pods": [], "error": "no route [1]"}]
