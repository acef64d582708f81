"""What docs/architecture.md asks of every role, and that its three descriptions of itself agree."""

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

HERE = Path(__file__).parents[2]
ROLES = sorted(path.name for path in (HERE / "roles").iterdir() if path.is_dir())
OURS = {path.stem for kind in ("action", "modules") for path in (HERE / "plugins" / kind).glob("*.py")}
# of Ansible's own variables, those that are no facts
NOT_FACTS = {"facts", "check_mode", "remote_tmp", "play_hosts", "search_path", "version", "managed", "connection"}
KEYWORDS = {"name", "when", "vars", "register", "notify", "loop", "loop_control", "changed_when", "failed_when",
            "check_mode", "environment", "no_log", "until", "retries", "delay", "block", "rescue", "always", "become",
            "tags", "args", "listen", "run_once", "delegate_to", "ignore_errors", "diff", "timeout"}  # fmt: skip


def read(role: str, path: str):
    """A YAML file of the role; empty where it has none."""
    file = HERE / "roles" / role / path
    return yaml.safe_load(file.read_text()) if file.exists() else None


def specification(role: str) -> dict:
    return read(role, "meta/argument_specs.yml")["argument_specs"]["main"]["options"]


def tasks(role: str) -> Iterator[tuple[str, dict]]:
    """Every task and handler of the role, blocks opened, with the file that it stands in."""
    for file in sorted((HERE / "roles" / role).glob("*/*.yml")):
        if file.parent.name not in ("tasks", "handlers"):
            continue
        pending = list(yaml.safe_load(file.read_text()) or [])
        while pending:
            task = pending.pop(0)
            for part in ("block", "rescue", "always"):
                pending += task.get(part, [])
            yield f"{file.relative_to(HERE)}: {task.get('name', '?')}", task


def action(task: dict) -> str | None:
    """The module that the task calls; None for a block."""
    names = [key for key in task if key not in KEYWORDS]
    assert len(names) <= 1, f"{task.get('name')}: is one of {names} a keyword that this test does not know?"
    return names[0] if names else None


def written_files(value: object) -> Iterator[dict]:
    """Every entry for casemate_files, wherever it is written down."""
    if isinstance(value, dict):
        if "dest" in value and "src" in value and str(value["src"]).startswith("etc/"):
            yield value
        for inner in value.values():
            yield from written_files(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from written_files(inner)


def test_the_roles_are_those_of_the_deploy_playbook():
    plays = yaml.safe_load((HERE / "playbooks/deploy.yml").read_text())
    assert sorted(entry["role"] for play in plays for entry in play["roles"]) == ROLES


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("path", ["defaults/main.yml", "meta/argument_specs.yml", "meta/main.yml", "tasks/main.yml"])
def test_a_role_has_its_manual_its_specification_and_its_tasks(role, path):
    assert (HERE / "roles" / role / path).is_file()


@pytest.mark.parametrize("role", ROLES)
def test_defaults_and_specification_agree_in_names_and_values(role):
    defaults = read(role, "defaults/main.yml") or {}
    specified = {name: option["default"] for name, option in specification(role).items() if not option.get("required")}
    assert specified == defaults


@pytest.mark.parametrize("role", ROLES)
def test_public_and_internal_variables_are_prefixed(role):
    assert [n for n in read(role, "defaults/main.yml") or {} if n != role and not n.startswith(f"{role}_")] == []
    assert [n for n in read(role, "vars/main.yml") or {} if not n.startswith(f"__{role}_")] == []
    registered = [(where, t["register"]) for where, t in tasks(role) if "register" in t]
    assert [r for r in registered if not r[1].startswith(f"__{role}_")] == []


@pytest.mark.parametrize("role", ROLES)
def test_each_default_has_prose_above_it(role):
    lines = (HERE / "roles" / role / "defaults/main.yml").read_text().splitlines()
    bare = [line for before, line in itertools.pairwise(lines) if re.match(r"\w+:", line) and before[:1] != "#"]
    assert bare == []


@pytest.mark.parametrize("role", ROLES)
def test_each_template_that_is_written_exists_and_each_that_exists_is_used(role):
    directory = HERE / "roles" / role / "templates"
    sources = [path for path in (HERE / "roles" / role).glob("*/*.yml") if path.parent.name in ("tasks", "vars")]
    entries = [entry for path in sources for entry in written_files(yaml.safe_load(path.read_text()))]
    assert [entry["src"] for entry in entries if not (directory / entry["src"]).is_file()] == []
    text = "\n".join(path.read_text() for path in sources)
    there = [str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()]
    assert [name for name in there if name not in text] == []


@pytest.mark.parametrize("role", ROLES)
def test_a_template_lies_where_its_target_will(role):
    for path in (HERE / "roles" / role).glob("*/*.yml"):
        for entry in written_files(yaml.safe_load(path.read_text())):
            if "{{" not in entry["dest"]:
                assert "/" + entry["src"].removesuffix(".j2") == entry["dest"]


@pytest.mark.parametrize("role", ROLES)
def test_only_builtin_modules_and_our_own_are_called(role):
    called = {where: action(task) for where, task in tasks(role)}
    assert {w: m for w, m in called.items() if m and not m.startswith("ansible.builtin.") and m not in OURS} == {}


@pytest.mark.parametrize("role", [role for role in ROLES if role != "base"])
def test_only_base_calls_the_package_manager(role):
    called = {where: action(task) for where, task in tasks(role)}
    assert [
        where for where, module in called.items() if module in ("ansible.builtin.apt", "ansible.builtin.dpkg")
    ] == []


@pytest.mark.parametrize("role", ROLES)
def test_a_command_that_only_looks_looks_under_check_mode_too(role):
    blind = [
        where
        for where, task in tasks(role)
        if action(task) in ("ansible.builtin.command", "ansible.builtin.shell", "ansible.builtin.script")
        and task.get("changed_when") is False
        and task.get("check_mode") is not False
        and "not ansible_check_mode" not in str(task.get("when"))
    ]
    assert blind == []


@pytest.mark.parametrize("role", ROLES)
def test_facts_are_read_by_their_one_name(role):
    """Injected facts (ansible_distribution ...) are off, and would be undefined on the host."""
    for path in (HERE / "roles" / role).rglob("*"):
        if path.is_file() and "{{" in (text := path.read_text()):
            assert set(re.findall(r"(?<![\w./])ansible_(\w+)", text)) <= NOT_FACTS, path


@pytest.mark.parametrize("role", ROLES)
def test_the_meta_data_say_what_is_supported(role):
    info = read(role, "meta/main.yml")["galaxy_info"]
    assert info["author"] == "Casemate"
    assert info["license"] == "MIT"
    assert info["min_ansible_version"] == "2.19"
    debian = [p["versions"] for p in info["platforms"] if p["name"] == "Debian"]
    assert debian and {"bookworm", "trixie"} <= set(debian[0])
