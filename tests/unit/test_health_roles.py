"""The roles and the node programs agree about what both of them know."""

import ast
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from appliance.node.health import blockdev, services, settings

TOP = Path(__file__).parents[2]
HEALTH = TOP / "appliance/node/health"
PREFLIGHT = (TOP / "roles/preflight/vars/main.yml").read_text()


def defaults(role):
    return yaml.safe_load((TOP / f"roles/{role}/defaults/main.yml").read_text())


@pytest.mark.parametrize(("name", "repeated"), sorted(set(re.findall(r"(\w+) \| default\(([^)]+)\)", PREFLIGHT))))
def test_defaults_repeated_by_preflight_are_those_of_the_role(name, repeated):
    role = name.split("_")[0]
    assert (
        ast.literal_eval(repeated.capitalize() if repeated in ("true", "false") else repeated) == defaults(role)[name]
    )


def test_preflight_passes_only_settings_that_the_program_knows():
    passed = yaml.safe_load(PREFLIGHT)["__preflight_params"]
    assert set(passed) <= {field for field in settings.Settings.__dataclass_fields__}


def test_preflights_thresholds_are_the_programs_own():
    own = settings.Settings()
    role = defaults("preflight")
    assert role["preflight_memory_mib"] == own.memory_required_mib
    assert role["preflight_disk_mib"] == own.disk_required_mib
    assert role["preflight_network_timeout"] == own.network_timeout


def test_the_pools_path_and_label_are_the_same_on_both_sides():
    role = yaml.safe_load((TOP / "roles/storage/vars/main.yml").read_text())
    assert (role["__storage_pool"], role["__storage_label"]) == (blockdev.POOL, blockdev.LABEL)


def test_every_action_that_services_answers_has_a_state_in_the_role():
    states = yaml.safe_load((TOP / "roles/monitoring/vars/main.yml").read_text())["__monitoring_states"]
    answered = set(re.findall(r'"action": "(\w+)"', Path(services.__file__).read_text())) | {"restart", "reload"}
    assert set(states) == answered - {"none"}


@pytest.mark.parametrize("path", sorted(HEALTH.rglob("*.py")), ids=lambda path: path.name)
def test_preflight_parses_on_the_python_of_distributions_that_it_refuses(path):
    ast.parse(path.read_text(), feature_version=(3, 9))


def test_preflight_runs_from_a_zip_and_writes_no_file(tmp_path):
    archive = tmp_path / "node.pyz"
    with zipfile.ZipFile(archive, "w") as bundle:
        bundle.writestr("__main__.py", "import sys; from appliance.node.health.cli import main; sys.exit(main())")
        for name in ("appliance/__init__.py", "appliance/node/__init__.py"):
            bundle.writestr(name, "")
        for path in HEALTH.rglob("*.py"):
            bundle.write(path, path.relative_to(TOP))
    done = subprocess.run(
        [sys.executable, "-I", str(archive), "preflight", "--params", '{"offline": true}'],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=True,
    )
    answer = json.loads(done.stdout)
    assert set(answer) == {"facts", "checks"}
    assert all(set(one) == {"id", "severity", "ok", "evidence", "cause", "cure"} for one in answer["checks"])
    assert [path.name for path in tmp_path.iterdir()] == ["node.pyz"]


def test_bad_parameters_exit_2_naming_the_key():
    done = subprocess.run(
        [sys.executable, "-m", "appliance.node.health", "preflight", "--params", '{"x": 1}'],
        capture_output=True,
        text=True,
        cwd=TOP,
        check=False,
    )
    assert done.returncode == 2 and "unknown key 'x'" in done.stderr
