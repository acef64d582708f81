"""Ansible's own variables that an inventory may set: how a host is reached and how root is become there."""

import re
from pathlib import Path

_KNOWN = frozenset(
    [
        "ansible_become",
        "ansible_become_exe",
        "ansible_become_flags",
        "ansible_become_method",
        "ansible_become_pass",
        "ansible_become_password",
        "ansible_become_user",
        "ansible_common_remote_group",
        "ansible_connection",
        "ansible_control_path",
        "ansible_control_path_dir",
        "ansible_host",
        "ansible_host_key_checking",
        "ansible_password",
        "ansible_pipelining",
        "ansible_port",
        "ansible_private_key_file",
        "ansible_python_interpreter",
        "ansible_remote_tmp",
        "ansible_scp_executable",
        "ansible_scp_extra_args",
        "ansible_sftp_batch_mode",
        "ansible_sftp_executable",
        "ansible_sftp_extra_args",
        "ansible_shell_allow_world_readable_temp",
        "ansible_shell_executable",
        "ansible_shell_type",
        "ansible_ssh_args",
        "ansible_ssh_common_args",
        "ansible_ssh_executable",
        "ansible_ssh_extra_args",
        "ansible_ssh_host",
        "ansible_ssh_host_key_checking",
        "ansible_ssh_pass",
        "ansible_ssh_password",
        "ansible_ssh_pipelining",
        "ansible_ssh_port",
        "ansible_ssh_private_key_file",
        "ansible_ssh_retries",
        "ansible_ssh_timeout",
        "ansible_ssh_transfer_method",
        "ansible_ssh_use_tty",
        "ansible_ssh_user",
        "ansible_sudo_exe",
        "ansible_sudo_flags",
        "ansible_sudo_pass",
        "ansible_sudo_user",
        "ansible_timeout",
        "ansible_user",
    ]
)


def known_connection_variables(content: Path) -> frozenset[str]:
    """The variables of Ansible's ssh, local and sudo plugins and of the connection plugins below `content`/plugins."""
    own = set()
    for plugin in content.glob("plugins/connection/*.py"):
        own.update(re.findall(r"^\s*- name: (ansible_\w+)\s*$", plugin.read_text(encoding="utf-8"), re.MULTILINE))
    return _KNOWN | own
