"""What the runner reads of the engine's configuration."""

import json
from pathlib import Path

import pytest

from appliance.node.pods import cgroups, settings

UNITS = Path(__file__).parents[2] / "roles/pods/templates/etc/systemd/system"


def test_a_host_without_the_file_has_the_defaults(tmp_path):
    assert settings.load(tmp_path / "none") == settings.Settings()


def test_keys_of_other_programs_are_left_alone(tmp_path):
    file = tmp_path / "engine.json"
    file.write_text(json.dumps({"socket": "/s", "cgroup_driver": "systemd", "other": 1}))
    assert settings.load(file) == settings.Settings(socket="/s", cgroup_driver="systemd")


@pytest.mark.parametrize("unit", [settings.SLICE, "casemate-.slice.d/casemate.conf"])
def test_the_slices_of_the_pods_outlive_the_beginning_of_a_shutdown(unit):
    assert "DefaultDependencies=no" in (UNITS / unit).read_text().splitlines()


def test_a_hyphen_in_a_pods_name_is_no_level_of_slices():
    assert settings.Settings(cgroup_driver="systemd").cgroup_parent("shop-1") == "/casemate.slice/casemate-shop_1.slice"


def test_a_pods_control_group_goes_in_each_hierarchy_and_no_other_does(tmp_path):
    for hierarchy in ("", "memory", "cpu"):
        (tmp_path / hierarchy / "k8s.io/pod_web").mkdir(parents=True)
        (tmp_path / hierarchy / "k8s.io/pod_web2").mkdir()
    (tmp_path / "cpu/k8s.io/pod_web2/still-here").mkdir()
    cgroups.remove("web", tmp_path)
    cgroups.remove("web2", tmp_path)
    left = [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("pod_*")]
    assert left == ["cpu/k8s.io/pod_web2"]
