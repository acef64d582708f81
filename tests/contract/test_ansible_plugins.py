"""Our plugins in a real run of ansible-core: what casemate_files writes, and what the callback tells of it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

PROJECT = Path(__file__).parents[2]
SECRET = "hunter2-secret"


@pytest.fixture
def play(tmp_path):
    """Runs tasks as those of a role `app` on this machine; returns (raw events, the run's output, exit code)."""
    templates = tmp_path / "roles/app/templates/etc"
    templates.mkdir(parents=True)
    (templates / "app.conf.j2").write_text("port = {{ app_port }}\npath = {{ 'a\\\\b' }}\n{% include 'tail.j2' %}\n")
    (templates / "tail.j2").write_text("tail = {{ app_port + 1 }}\n")
    (tmp_path / "roles/app/tasks").mkdir()

    def run(*tasks: dict, check: bool = False) -> tuple[list[dict], str, int]:
        (tmp_path / "roles/app/tasks/main.yml").write_text(yaml.safe_dump(list(tasks)))
        book = {
            "name": "Test", "hosts": "localhost", "connection": "local", "gather_facts": False,
            "vars": {"app_port": 80}, "roles": ["app"],
        }  # fmt: skip
        (tmp_path / "play.yml").write_text(yaml.safe_dump([book]))
        read_end, write_end = os.pipe()
        # in a mount namespace of its own: the module keeps its record in /var/lib, which is this machine's
        apart = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /var/lib && exec "$@"', "apart"]
        argv = [*apart, sys.executable, "-m", "ansible", "playbook", "-v", "--diff", "-i", "localhost,", "play.yml"]
        done = subprocess.run(
            [*argv, "--check"] if check else argv,
            cwd=tmp_path,
            env={
                **os.environ,
                "ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"),
                "ANSIBLE_ROLES_PATH": str(tmp_path / "roles"),
                "ANSIBLE_PYTHON_INTERPRETER": sys.executable,
                "CASEMATE_EVENT_FD": str(write_end),
            },
            pass_fds=[write_end],
            capture_output=True,
            text=True,
            check=False,
        )
        os.close(write_end)
        with os.fdopen(read_end) as pipe:
            events = [json.loads(line) for line in pipe]
        return events, done.stdout + done.stderr, done.returncode

    return run


def files(*entries: dict) -> dict:
    return {"name": "Write", "casemate_files": {"files": list(entries)}}


def results(events: list[dict]) -> list[dict]:
    return [e for e in events if e["event"] == "result"]


@pytest.mark.skipif(os.geteuid() != 0, reason="files are given to root")
class TestFiles:
    """casemate_files, from the task to the file."""

    def test_a_template_of_the_role_is_rendered_with_its_includes_and_escapes_kept(self, play, tmp_path):
        dest = tmp_path / "out/etc/app.conf"
        events, output, code = play(files({"src": "etc/app.conf.j2", "dest": str(dest)}))
        assert code == 0, output
        assert dest.read_text() == "port = 80\npath = a\\b\ntail = 81\n"
        (result,) = results(events)
        assert (result["status"], result["changed_files"]) == ("changed", [str(dest)])
        assert result["diff"][0]["after"] == dest.read_text()

    def test_the_second_run_changes_nothing(self, play, tmp_path):
        task = files({"content": "x\n", "dest": str(tmp_path / "x")})
        play(task)
        events, output, code = play(task)
        assert code == 0, output
        assert results(events)[0]["status"] == "ok"

    def test_check_mode_tells_and_writes_nothing(self, play, tmp_path):
        events, output, code = play(files({"content": "x\n", "dest": str(tmp_path / "deep/x")}), check=True)
        assert code == 0, output
        assert results(events)[0]["changed_files"] == [str(tmp_path / "deep/x")]
        assert not (tmp_path / "deep").exists()

    def test_a_hidden_entrys_text_is_neither_in_events_nor_in_the_log(self, play, tmp_path):
        entry = {"content": SECRET, "dest": str(tmp_path / "key"), "mode": "0600", "no_log": True}
        events, output, code = play(files(entry))
        assert code == 0, output
        assert (tmp_path / "key").read_text() == SECRET
        assert SECRET not in output + json.dumps(events)

    def test_a_wrong_entry_is_named(self, play):
        wrong = [
            ({"content": "x"}, "dest"),
            ({"dest": "/x", "content": "x", "moed": "0600"}, "moed"),
            ({"dest": "/x"}, "give one of"),
            ({"dest": "/x", "content": "x", "src": "etc/app.conf.j2"}, "give one of"),
            ({"dest": "/x", "content": "x", "state": "absent"}, "give one of"),
            ({"dest": "/x", "src": "etc/missing.j2"}, "etc/missing.j2"),
        ]
        events, _, _ = play(*[{**files(entry), "ignore_errors": True} for entry, _ in wrong])
        answers = results(events)
        assert [a["status"] for a in answers] == ["ignored"] * len(wrong)
        assert [c for a, (_, c) in zip(answers, wrong, strict=True) if c not in a["msg"]] == []
        assert not Path("/x").exists()


def test_the_callback_tells_plays_tasks_results_and_the_end(play):
    command = {"name": "Say", "ansible.builtin.command": {"argv": ["echo", "hello"]}, "changed_when": False}
    events, output, code = play(command)
    assert code == 0, output
    assert [e["event"] for e in events] == ["play", "task", "result", "stats"]
    task, result = events[1:3]
    assert (task["role"], task["name"], task["action"]) == ("app", "Say", "ansible.builtin.command")
    assert "roles/app/tasks/main.yml" in task["path"]
    assert (result["task"], result["status"], result["stdout"]) == (task["id"], "ok", "hello")


def test_a_failure_carries_the_commands_words_and_an_ignored_one_is_called_so(play):
    command = {"ansible.builtin.command": {"argv": ["sh", "-c", "echo why >&2; exit 3"]}}
    events, _, code = play({"name": "A", **command, "ignore_errors": True}, {"name": "B", **command})
    assert code == 2
    ignored, failed = results(events)
    assert (ignored["status"], failed["status"]) == ("ignored", "failed")
    assert (failed["rc"], failed["stderr"]) == (3, "why")


def test_a_failing_item_of_a_loop_is_named(play):
    command = {"name": "Loop", "ansible.builtin.command": {"argv": ["{{ item }}"]}, "loop": ["true", "false"]}
    events, _, _ = play(command)
    assert results(events)[-1]["msg"].startswith("false: ")


def test_a_task_with_no_log_tells_only_that_it_happened(play):
    command = {"name": "Hush", "ansible.builtin.command": {"argv": ["echo", SECRET]}, "no_log": True}
    events, output, code = play(command)
    assert code == 0
    assert SECRET not in output + json.dumps(events)
    assert set(results(events)[0]) == {"event", "host", "task", "status"}


def test_a_vaulted_value_is_written_as_what_it_says(play, tmp_path, monkeypatch):
    """Ansible's own dumper would write the ciphertext, which means nothing on the host."""
    (tmp_path / "password").write_text("x\n")
    monkeypatch.setenv("ANSIBLE_VAULT_PASSWORD_FILE", str(tmp_path / "password"))
    argv = [sys.executable, "-m", "ansible", "vault", "encrypt_string", "--name", "token", SECRET]
    token = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    indented = "".join(f"    {line}\n" for line in token.splitlines())
    (tmp_path / "vars.yml").write_text(
        f"secret:\n  apiVersion: v1\n  kind: Secret\n  metadata: {{name: s}}\n  stringData:\n{indented}"
    )
    made = "{{ ([secret] | casemate_manifest_files('# head'))[0] }}"
    _, output, code = play(
        {"name": "Read", "ansible.builtin.include_vars": {"file": str(tmp_path / "vars.yml")}},
        {"name": "Make", "ansible.builtin.set_fact": {"app_made": made}, "no_log": True},
        files({"dest": str(tmp_path / "out"), "content": "{{ app_made.content }}", "no_log": "{{ app_made.no_log }}"}),
    )
    assert code == 0, output
    assert yaml.safe_load((tmp_path / "out").read_text())["stringData"] == {"token": SECRET}
    assert SECRET not in output
