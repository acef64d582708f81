"""What the runner reads of the engine's configuration."""

import json
from pathlib import Path

from appliance.node.pods import settings

UNITS = Path(__file__).parents[2] / "roles/pods/templates/etc/systemd/system"


def test_a_host_without_the_file_has_the_defaults(tmp_path):
    assert settings.load(tmp_path / "none") == settings.Settings()


def test_keys_of_other_programs_are_left_alone(tmp_path):
    file = tmp_path / "engine.json"
    file.write_text(json.dumps({"socket": "/s", "cgroup_driver": "systemd", "other": 1}))
    assert settings.load(file) == settings.Settings(socket="/s", cgroup_driver="systemd")


def test_the_slice_of_the_pods_is_a_unit_that_outlives_the_beginning_of_a_shutdown():
    assert "DefaultDependencies=no" in (UNITS / settings.SLICE).read_text().splitlines()
