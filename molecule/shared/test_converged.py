"""What holds for every role after its converge."""

import os
import re
import subprocess
from pathlib import Path


def test_check_mode_finds_nothing_to_change():
    """`appliance plan` after `appliance deploy` reports nothing; here with the scenario's own playbook."""
    project = Path(os.environ["MOLECULE_PROJECT_DIRECTORY"])
    release = os.environ["CASEMATE_MOLECULE_RELEASE"]
    done = subprocess.run(
        [
            "ansible-playbook", "--check", "--diff", f"--inventory={project}/inventories/lab",
            f"--limit=mol-{release}", "converge.yml",
        ],
        cwd=os.environ["MOLECULE_SCENARIO_DIRECTORY"],
        env={**os.environ, "ANSIBLE_CONFIG": str(project / "ansible.cfg")},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    recap = re.search(r"changed=(\d+) .*failed=(\d+)", done.stdout)
    assert recap, done.stdout + done.stderr
    assert recap.groups() == ("0", "0"), done.stdout


def test_no_unit_has_failed(host):
    assert host.check_output("systemctl --failed --no-legend --plain") == ""


def test_nothing_of_ours_can_be_written_by_others(host):
    found = host.check_output("find /etc/casemate /usr/lib/casemate -perm /o+w ! -type l 2>/dev/null; true")
    assert found == ""
