"""What holds for every role after its converge."""

import re


def test_check_mode_finds_nothing_to_change(converge):
    """`appliance plan` after `appliance deploy` reports nothing; here with the scenario's own playbook."""
    done = converge("--check", "--diff")
    recap = re.search(r"changed=(\d+) .*failed=(\d+)", done.stdout)
    assert recap, done.stdout + done.stderr
    assert recap.groups() == ("0", "0"), done.stdout


def test_no_unit_has_failed(host):
    assert host.check_output("systemctl --failed --no-legend --plain") == ""


def test_nothing_of_ours_can_be_written_by_others(host):
    found = host.check_output("find /etc/casemate /usr/lib/casemate -perm /o+w ! -type l 2>/dev/null; true")
    assert found == ""
