"""The inventory is read as Ansible reads it, and refused as a whole, with file, line and key, when it is wrong."""

import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from appliance.errors import UsageError
from appliance.inventory import InventoryError, load
from appliance.schema import UNKNOWN

DATA = Path(__file__).parent / "data"
CONTENT = DATA / "content"
BROKEN = DATA / "broken"
HERE = Path(__file__).parents[2]

# file: (line, key, part of the message)
CASES = {
    "a_list": (1, "", "not a mapping of groups"),
    "address_invalid": (4, "appliance.hosts.edge1.ansible_host", "wrong form"),
    "bool_in_quotes": (4, "appliance.hosts.edge1.storage_format", "is text"),
    "cidr_holds_the_host": (5, "appliance.hosts.edge1.engine_pod_cidr", "192.0.2.11 lies in"),
    "cidr_invalid": (4, "appliance.hosts.edge1.engine_pod_cidr", "wrong form"),
    "cidr_with_host_bits": (4, "appliance.hosts.edge1.engine_pod_cidr", "wrong form"),
    "default_cidr_holds_the_host": (4, "appliance.hosts.edge1.ansible_host", "engine_pod_cidr 10.86.0.0/24"),
    "duplicate_host": (5, "appliance.hosts.edge1", "first in line 3"),
    "duplicate_key": (6, "appliance.hosts.edge1.storage_device", "first in line 4"),
    "empty": (None, "", "is empty"),
    "host_is_not_a_mapping": (3, "appliance.hosts.edge1", "a single value"),
    "host_name_invalid": (3, "appliance.hosts.Edge_1", "no name for a host"),
    "host_name_is_a_number": (3, "appliance.hosts.11", "not text"),
    "hosts_is_a_list": (2, "appliance.hosts", "is a list"),
    "hosts_outside_a_group": (1, "hosts", "outside any group"),
    "list_is_text": (4, "appliance.hosts.edge1.engine_images", "is text"),
    "no_appliance_group": (None, "appliance", "the groups here: aplliance"),
    "no_hosts": (None, "appliance.hosts", "has no hosts"),
    "no_value": (4, "appliance.hosts.edge1.engine_pod_cidr", "has no value"),
    "not_a_choice": (4, "appliance.hosts.edge1.engine_default_handler", "did you mean microvm?"),
    "not_a_device": (4, "appliance.hosts.edge1.storage_device", "wrong form"),
    "number_in_quotes": (4, "appliance.hosts.edge1.pods_ready_timeout", "is text"),
    "own_secret_in_clear_text": (4, "appliance.hosts.edge1.x_registry_token", "secret in clear text"),
    "pod_host_port_twice": (17, "appliance.vars.pods[1].spec.containers[0].ports[0].hostPort", "on edge1 too"),
    "pod_image_invalid": (12, "appliance.vars.pods[0].spec.containers[0].image", "wrong form"),
    "pod_is_a_deployment": (7, "appliance.vars.pods[0].kind", "expected Pod"),
    "pod_key_misspelt": (13, "appliance.vars.pods[0].spec.containers[0].port", "did you mean ports?"),
    "pod_name_twice": (14, "appliance.vars.pods[1].metadata.name", "name of pods[0] too"),
    "pod_secret_in_clear_text": (15, "appliance.vars.pods[0].spec.containers[0].env[0].value", "clear text"),
    "pod_value_not_text": (15, "appliance.vars.pods[0].spec.containers[0].env[0].value", "a string"),
    "pod_without_containers": (9, "appliance.vars.pods[0].spec.containers", "required"),
    "pod_without_image": (11, "appliance.vars.pods[0].spec.containers[0].image", "required"),
    "pod_without_name": (8, "appliance.vars.pods[0].metadata.name", "required"),
    "pods_is_a_mapping": (5, "appliance.vars.pods", "not a list"),
    "same_machine_twice": (6, "appliance.hosts.edge2.ansible_host", "same machine as host edge1"),
    "secret_in_clear_text": (4, "appliance.hosts.edge1.ansible_become_password", "secret in clear text"),
    "section_misspelt": (2, "appliance.host", "did you mean hosts?"),
    "ssh_port_out_of_range": (4, "appliance.hosts.edge1.ansible_port", "wrong form"),
    "tab": (3, "", "tab"),
    "text_is_a_list": (4, "appliance.hosts.edge1.storage_device", "is a list"),
    "text_is_a_number": (3, "appliance.vars.monitoring_listen_address", "is a number"),
    "undefined_reference": (4, "appliance.hosts.edge1.storage_device", "'x_disk' is undefined"),
    "unknown_connection_variable": (4, "appliance.hosts.edge1.ansible_hosts", "did you mean ansible_host?"),
    "unknown_key": (4, "appliance.hosts.edge1.storage_devise", "did you mean storage_device?"),
    "unknown_key_in_group": (5, "all.children.appliance.vars.engine_podcidr", "did you mean engine_pod_cidr?"),
    "variable_directly_under_group": (4, "appliance.storage_device", "not a part of a group"),
    "yaml_does_not_parse": (4, "", "not YAML"),
}

POD = """
      - apiVersion: v1
        kind: Pod
        metadata: {name: web}
        spec: {containers: [{name: web, image: web}]}
"""


@pytest.fixture
def site(tmp_path):
    """Writes a site's files from name-to-text keywords; returns its directory."""

    def write(**files):
        for name, text in files.items():
            path = tmp_path / name.replace("__", "/")
            path = path if path.suffix else path.with_name(path.name + ".yml")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return write


def problems_of(path, content=CONTENT):
    with pytest.raises(InventoryError) as caught:
        load([path], content=content)
    return caught.value.problems


def hosts_of(path, limit=None):
    return {host.name: host.vars for host in load([path], limit, content=CONTENT).hosts}


def test_every_broken_inventory_is_a_case():
    assert {path.stem for path in BROKEN.iterdir()} == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_broken_inventory_is_refused_with_one_problem_at_its_file_line_and_key(name):
    line, key, message = CASES[name]
    problems = problems_of(BROKEN / f"{name}.yml")
    assert [(p.file, p.line, p.key) for p in problems] == [(str(BROKEN / f"{name}.yml"), line, key)], problems
    assert message in problems[0].message
    assert problems[0].documented


@pytest.mark.parametrize("name", CASES)
def test_command_refuses_broken_inventory_with_exit_code_2_naming_file_and_key(name, record_property):
    path = BROKEN / f"{name}.yml"
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "appliance", "deploy", "-i", str(path)], cwd=HERE, capture_output=True, text=True
    )
    record_property("seconds", round(time.perf_counter() - began, 2))
    assert done.returncode == 2, done.stderr
    assert str(path) in done.stderr
    assert CASES[name][1] in done.stderr
    assert "Traceback" not in done.stderr


def test_secrets_are_not_in_the_error(site):
    path = site(site="appliance:\n  hosts:\n    edge1:\n      ansible_password: hunter2\n      x_api_secret: hunter2\n")
    with pytest.raises(InventoryError) as caught:
        load([path], content=CONTENT)
    assert len(caught.value.problems) == 2
    assert "hunter2" not in str(caught.value) + str(caught.value.as_dict())


def test_option_with_no_log_is_a_secret_whatever_its_name(site):
    text = "appliance:\n  hosts:\n    edge1:\n      engine_images:\n        - name: web\n          auth_key: hunter2\n"
    (problem,) = problems_of(site(site=text))
    assert (problem.line, problem.key) == (6, "appliance.hosts.edge1.engine_images[0].auth_key")
    assert "hunter2" not in str(problem)


def test_vaulted_secret_is_accepted_and_not_judged(site):
    text = """appliance:
  hosts:
    edge1:
      ansible_become_password: !vault |
        $ANSIBLE_VAULT;1.1;AES256
        6162
"""
    assert hosts_of(site(site=text))["edge1"]["ansible_become_password"] is UNKNOWN


@pytest.fixture
def vaulted_site(site, tmp_path):
    path = site(site__site="appliance:\n  hosts:\n    edge1:\n", site__group_vars__appliance="storage_format: true\n")
    (tmp_path / "password").write_text("open sesame\n")
    argv = [sys.executable, "-m", "ansible", "vault", "encrypt", "--vault-password-file", str(tmp_path / "password")]
    subprocess.run([*argv, str(path / "site/group_vars/appliance.yml")], check=True, capture_output=True, cwd=tmp_path)
    return path / "site"


def test_vaulted_file_without_its_password_is_named_with_the_cure(vaulted_site):
    (problem,) = problems_of(vaulted_site)
    assert problem.file.endswith("group_vars/appliance.yml")
    assert "ANSIBLE_VAULT_PASSWORD_FILE" in problem.expected


def test_vaulted_file_is_read_with_its_password(vaulted_site, tmp_path, monkeypatch):
    from ansible import constants

    monkeypatch.setattr(constants, "DEFAULT_VAULT_PASSWORD_FILE", str(tmp_path / "password"))
    assert hosts_of(vaulted_site)["edge1"]["storage_format"] is True


def test_all_problems_of_all_files_come_at_once_and_in_order(site):
    path = site(
        site="appliance:\n  hosts:\n    edge1:\n      storage_devise: /dev/vdb\n    edge2:\n      storage_format: 1\n",
        group_vars__appliance="engine_pod_cidr: 10.0.0.1/8\n",
        host_vars__edge2="pods_ready_timeout: [1]\n",
    )
    assert [(Path(p.file).name, p.line, p.key) for p in problems_of(path)] == [
        ("appliance.yml", 1, "engine_pod_cidr"),
        ("edge2.yml", 1, "pods_ready_timeout"),
        ("site.yml", 4, "appliance.hosts.edge1.storage_devise"),
        ("site.yml", 6, "appliance.hosts.edge2.storage_format"),
    ]


def test_group_variable_is_reported_once_for_all_its_hosts(site):
    text = "appliance:\n  vars:\n    storage_format: maybe\n  hosts:\n    edge[1:9]:\n"
    assert len(problems_of(site(site=text))) == 1


def test_line_is_that_of_the_definition_that_wins(site):
    text = """appliance:
  children:
    north:
      vars:
        storage_device: vdb
      hosts:
        edge1:
  vars:
    storage_device: /dev/vdc
"""
    (problem,) = problems_of(site(site=text))
    assert problem.line == 5


def test_nested_options_are_checked(site):
    text = """appliance:
  hosts:
    edge1:
      engine_images:
        - {name: web, prot: 1}
        - {port: "1"}
"""
    assert [(p.line, p.key.removeprefix("appliance.hosts.edge1.")) for p in problems_of(site(site=text))] == [
        (5, "engine_images[0].prot"),
        (6, "engine_images[1].port"),
        (6, "engine_images[1]"),
    ]


def test_two_services_on_one_port_are_refused(site):
    text = "appliance:\n  hosts:\n    edge1:\n      monitoring_prometheus_port: 9100\n"
    (problem,) = problems_of(site(site=text))
    assert "port of monitoring_node_exporter_port" in problem.message
    assert problem.line == 4


def test_pod_on_a_service_s_port_is_refused(site):
    pod = POD.replace("image: web", "image: web, ports: [{containerPort: 80, hostPort: 9090}]")
    (problem,) = problems_of(site(site=f"appliance:\n  hosts:\n    edge1:\n      pods:{pod}"))
    assert "port of monitoring_prometheus_port" in problem.message


def test_pod_of_the_demo_s_name_beside_the_demo_is_refused(site):
    pod = POD.replace("name: web}", "name: demo}", 1)
    text = f"appliance:\n  hosts:\n    edge1:\n      pods_demo: true\n      pods:{pod}"
    (problem,) = problems_of(site(site=text))
    assert (problem.line, problem.key) == (8, "appliance.hosts.edge1.pods[0].metadata.name")
    assert hosts_of(site(site=text.replace("pods_demo: true", "pods_demo: false")))


def test_vaulted_value_in_a_pod_is_accepted(site):
    secret = "[{name: DB_PASSWORD, value: !vault '$ANSIBLE_VAULT;1.1;AES256\\n6162'}]"
    pod = POD.replace("image: web", f"image: web, env: {secret}")
    assert hosts_of(site(site=f"appliance:\n  hosts:\n    edge1:\n      pods:{pod}"))


def test_required_option_that_is_missing_is_reported_at_the_host(site, tmp_path):
    meta = tmp_path / "content/roles/x/meta/argument_specs.yml"
    meta.parent.mkdir(parents=True)
    meta.write_text("argument_specs: {main: {options: {must: {type: str, required: true}}}}\n")
    (tmp_path / "site").mkdir()
    path = site(site__site="appliance:\n  hosts:\n    edge1:\n")
    (problem,) = problems_of(path / "site", content=tmp_path / "content")
    assert (problem.line, problem.key) == (3, "appliance.hosts.edge1")
    assert "must" in problem.message


def test_removed_variable_is_refused_with_its_release(site, monkeypatch):
    monkeypatch.setitem(__import__("appliance.schema").schema.REMOVED, "engine_old", ("0.2.0", "engine_new"))
    (problem,) = problems_of(site(site="appliance:\n  hosts:\n    edge1:\n      engine_old: 1\n"))
    assert "removed in release 0.2.0" in problem.message
    assert problem.expected == "engine_new"


def test_template_over_facts_is_left_to_the_run(site):
    text = "appliance:\n  hosts:\n    edge1:\n      storage_device: \"{{ ansible_facts['devices'] | first }}\"\n"
    assert hosts_of(site(site=text))["edge1"]["storage_device"] is UNKNOWN


def test_template_over_the_inventory_is_resolved_and_judged(site):
    text = "appliance:\n  hosts:\n    edge1:\n      x_disk: vdb\n      storage_device: '/dev/{{ x_disk }}'\n"
    path = site(site=text)
    assert hosts_of(path)["edge1"]["storage_device"] == "/dev/vdb"
    (problem,) = problems_of(site(site=text.replace("/dev/{{", "{{")))
    assert (problem.line, problem.value) == (5, "vdb")


def test_good_inventory_gives_plain_values_and_groups(site):
    path = site(
        site=f"appliance:\n  children:\n    north:\n      hosts:\n        edge[1:2]:\n  vars:\n    pods:{POD}",
        group_vars__north__disk="storage_device: /dev/vdb\n",
    )
    inventory = load([path], content=CONTENT)
    assert [host.name for host in inventory.hosts] == ["edge1", "edge2"]
    edge1 = inventory.hosts[0]
    assert type(edge1.vars["storage_device"]) is str
    assert edge1.vars["pods"][0]["metadata"] == {"name": "web"}
    assert {"appliance", "north"} <= set(edge1.groups)
    assert "inventory_hostname" not in edge1.vars


def test_hosts_outside_the_group_are_nobody_s_business(site):
    path = site(site="appliance:\n  hosts:\n    edge1:\nothers:\n  hosts:\n    db1:\n      anything: goes\n")
    assert list(hosts_of(path)) == ["edge1"]


@pytest.mark.parametrize("limit, expected", [("edge2", ["edge2"]), ("north", ["edge1"]), ("!edge1", ["edge2"])])
def test_limit_means_what_it_means_to_ansible(site, limit, expected):
    path = site(site="appliance:\n  hosts:\n    edge[1:2]:\nnorth:\n  hosts:\n    edge1:\n")
    assert list(hosts_of(path, limit)) == expected


@pytest.mark.parametrize("limit", ["edge9", "others", "edge1,!edge1"])
def test_limit_that_leaves_nothing_is_an_error_that_names_the_hosts(site, limit):
    path = site(site="appliance:\n  hosts:\n    edge1:\nothers:\n  hosts:\n    db1:\n")
    with pytest.raises(UsageError) as caught:
        load([path], limit, content=CONTENT)
    assert caught.value.exit_code == 2
    assert "edge1" in caught.value.cure
    assert "db1" not in caught.value.cure


def test_script_is_a_source_and_its_mistakes_name_it(tmp_path):
    script = tmp_path / "hosts.py"
    script.write_text(
        "#!/bin/sh\n"
        'echo \'{"appliance": {"hosts": ["edge1"]}, "_meta": {"hostvars": {"edge1": {"storage_device": 1}}}}\'\n'
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    (problem,) = problems_of(script)
    assert (problem.file, problem.key) == (str(script), "appliance.hosts.edge1.storage_device")


def test_script_that_fails_is_an_error_not_a_warning(tmp_path, capfd):
    script = tmp_path / "hosts.py"
    script.write_text("#!/bin/sh\nexit 3\n")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    assert any("hosts.py" in p.message for p in problems_of(script))
    assert "WARNING" not in capfd.readouterr().err


def test_source_that_is_not_there_is_named(tmp_path):
    (problem,) = problems_of(tmp_path / "nowhere.yml")
    assert problem.message == "does not exist"


def test_aliases_are_not_taken_for_duplicates(site):
    text = "appliance:\n  vars:\n    x_a: &a {one: 1}\n    x_b: *a\n    x_c: {<<: *a, two: 2}\n  hosts:\n    edge1:\n"
    assert hosts_of(site(site=text))["edge1"]["x_c"] == {"one": 1, "two": 2}


def test_file_that_is_not_text_is_a_problem_not_a_traceback(site):
    path = site(site="appliance:\n  hosts:\n    edge1:\n") / "site.yml"
    path.write_bytes(b"appliance: \xff\n")
    assert "cannot be read" in problems_of(path)[0].message
