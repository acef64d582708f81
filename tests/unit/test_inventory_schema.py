"""The roles' specifications, the tables about them, the example inventories and the reference page agree."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from appliance import connection_variables, formats, reference, schema
from appliance.inventory import InventoryError, load

HERE = Path(__file__).parents[2]
OPTIONS = schema.read_options(HERE)
ROLES = sorted(path.parent.parent.name for path in HERE.glob("roles/*/meta/argument_specs.yml"))
EXAMPLES = ("single", "fleet")


def with_format(options, key=""):
    """Every key of FORMATS that an option or a nested option answers to."""
    for name, option in options.items():
        here = f"{key}.{name}" if key else name
        yield here
        if option.element:
            yield f"{here}[]"
            yield from with_format(option.element.options, f"{here}[]")
        yield from with_format(option.options, here)


def test_every_format_belongs_to_an_option_of_a_role():
    assert set(schema.FORMATS) - set(with_format(OPTIONS)) == set()


def test_every_switch_of_a_port_is_an_option_too():
    assert set(schema.PORT_TAKEN_WITH).union(*schema.PORT_TAKEN_WITH.values()) <= set(OPTIONS)


def test_no_removed_variable_is_an_option_again():
    assert not set(schema.REMOVED) & set(OPTIONS)


@pytest.mark.parametrize("role", ROLES)
def test_role_specifies_exactly_the_variables_that_it_has_defaults_for(role):
    specified = {name for name, option in OPTIONS.items() if option.role == role and not option.required}
    assert specified == set(schema.read_defaults(HERE, role))


@pytest.mark.parametrize("name", OPTIONS)
def test_default_passes_its_own_specification(name):
    option = OPTIONS[name]
    if isinstance(option.default, str) and "{{" in option.default:
        pytest.skip("a template is judged by the run")
    assert option.default is None or list(schema.check(option, option.default)) == []


@pytest.mark.parametrize("name", OPTIONS)
def test_option_has_a_type_that_is_checked_and_a_description(name):
    assert OPTIONS[name].type in schema._TYPES
    assert OPTIONS[name].description


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_inventory_is_valid(name):
    try:
        inventory = load([HERE / "inventories" / name], content=HERE)
    except InventoryError as error:
        pytest.fail(str(error))
    assert inventory.hosts


def test_reference_pages_are_current():
    page = (HERE / reference.PAGE).read_text(encoding="utf-8")
    assert page == reference.render(page, HERE), "run: python -m appliance.reference"
    pods = (HERE / reference.PODS_PAGE).read_text(encoding="utf-8")
    assert pods == reference.render_pods(pods), "run: python -m appliance.reference"


def test_variables_of_our_connection_plugins_are_known(tmp_path):
    plugin = tmp_path / "plugins/connection/x.py"
    plugin.parent.mkdir(parents=True)
    plugin.write_text('DOCUMENTATION = """\n  vars:\n    - name: ansible_x_directory\n"""\n')
    assert "ansible_x_directory" in connection_variables.known_connection_variables(tmp_path)
    assert "ansible_nspawn_directory" in connection_variables.known_connection_variables(HERE)


def lab_inventory(lab: Path) -> dict:
    done = subprocess.run(
        [HERE / "inventories/lab/hosts.py", "--list"],
        env={**os.environ, "CASEMATE_LAB_DIR": str(lab)},
        capture_output=True,
        check=True,
    )
    return json.loads(done.stdout)


def test_lab_inventory_without_a_lab_is_empty_and_refused_with_the_cure(tmp_path, monkeypatch):
    assert lab_inventory(tmp_path) == {"_meta": {"hostvars": {}}}
    monkeypatch.setenv("CASEMATE_LAB_DIR", str(tmp_path))
    with pytest.raises(InventoryError) as caught:
        load([HERE / "inventories/lab"], content=HERE)
    (problem,) = caught.value.problems
    assert "appliance lab up" in problem.expected


def test_lab_inventory_has_the_running_hosts_with_the_lab_s_variables(tmp_path, monkeypatch):
    variables = {"ansible_connection": "casemate_nspawn", "storage_device": "/dev/loop7"}
    (tmp_path / "hosts.json").write_text(json.dumps({"appliance": {"hosts": {"h1": variables}}}))
    assert lab_inventory(tmp_path)["appliance"] == {"hosts": ["h1"]}
    monkeypatch.setenv("CASEMATE_LAB_DIR", str(tmp_path))
    (host,) = load([HERE / "inventories/lab"], content=HERE).hosts
    assert host.vars == {**variables, "pods_demo": True, "engine_pod_cidr6": "fd00:86::/64"}


@pytest.mark.parametrize(
    "form, good, bad",
    [
        (formats.CIDR6, ["fd00::/64"], ["fd00::1/64", "10.0.0.0/8", "fd00::", "", 10]),
        (formats.MTU, [0, 1280, 65535], [1, 1279, 65536, True, "1500"]),
        (formats.CIDR, ["10.0.0.0/8"], ["10.0.0.1/8", "fd00::/64", "10.0.0.0", "10.0.0.0/33", "", 10]),
        (formats.PORT, [1, 65535], [0, 65536, True, "80"]),
        (formats.DEVICE, ["/dev/vdb", "/dev/disk/by-id/x"], ["vdb", "/dev/", "/etc/x", "/dev/../etc/x"]),
        (formats.PATH, ["/", "/a b"], ["a", "/a/../b", "", "/a\n"]),
        (formats.ENDPOINT, ["127.0.0.1:1338", "[::1]:80", "a.example:1"], ["127.0.0.1", ":80", "a:0", "a:b", 80]),
        (formats.LISTEN, ["0.0.0.0", "::", "localhost"], ["", "a b", 1]),
        (formats.DURATION, ["15s", "1h30m", "30d"], ["", "15", "s", "15 s", 15]),
        (formats.SIZE, ["512M", "10GiB", "1.5G"], ["", "x", "10 G", 10]),
        (formats.DNS_NAME, ["edge1", "a.b-c"], ["Edge", "a_b", "-a", "a.", "a" * 64]),
        (
            formats.IMAGE,
            ["web", "web:1", "a.example:5000/x/y_z@sha256:" + "0" * 64, "localhost/casemate/demo:1"],
            ["Web", "web:", "web:1 ", "http://a/b", "a//b", "web@sha256:00"],
        ),
        (formats.INTERFACE, ["casemate0"], ["a" * 16, "a/b", ""]),
    ],
    ids=lambda value: value.expected[:20] if isinstance(value, formats.Format) else "",
)
def test_format_accepts_the_good_and_refuses_the_bad(form, good, bad):
    assert [value for value in good if not form.accepts(value)] == []
    assert [value for value in bad if form.accepts(value)] == []


def test_variables_that_the_lab_sets_exist():
    from appliance.lab.qemu import PATIENCE

    assert set(PATIENCE) <= set(OPTIONS)
