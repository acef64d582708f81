"""Ansible connection to a systemd-nspawn host: its init is found at each connect, so a reboot does no harm."""

from __future__ import annotations

DOCUMENTATION = """
    name: casemate_nspawn
    short_description: run tasks in a systemd-nspawn host on the controller
    description:
        - Enters the namespaces of the host's init process with nsenter. Needs root on the controller.
    author: Casemate
    options:
        directory:
            description: The root directory that systemd-nspawn was started with.
            required: true
            type: path
            vars:
                - name: ansible_nspawn_directory
    extends_documentation_fragment:
        - connection_pipelining
"""

import os
import subprocess
import sys
from pathlib import Path

from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.module_utils.common.text.converters import to_text
from ansible.plugins.connection import ConnectionBase

try:
    from appliance.lab.leader import leader_of
except ImportError:  # plain ansible-playbook in a checkout, from an environment without Casemate
    sys.path.append(str(Path(__file__).resolve().parents[2]))
    from appliance.lab.leader import leader_of

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Connection(ConnectionBase):
    """Commands run as root in all the namespaces of the host."""

    transport = "casemate_nspawn"
    has_pipelining = True

    def _connect(self) -> Connection:
        leader = leader_of(Path(self.get_option("directory")))
        if leader is None:
            raise AnsibleConnectionFailure(
                f"no running systemd-nspawn host has {self.get_option('directory')} as its root"
            )
        self._enter = ["nsenter", "-t", str(leader), "-a", "--wdns=/root", "env", "-i", "HOME=/root", f"PATH={PATH}"]
        self._connected = True
        return self

    def exec_command(self, cmd: str, in_data: bytes | None = None, sudoable: bool = True) -> tuple[int, bytes, bytes]:
        super().exec_command(cmd, in_data=in_data, sudoable=sudoable)
        self._connect()
        done = subprocess.run(
            [*self._enter, "/bin/sh", "-c", cmd], input=in_data or b"", capture_output=True, check=False
        )
        return done.returncode, done.stdout, done.stderr

    def put_file(self, in_path: str, out_path: str) -> None:
        self._connect()
        with open(in_path, "rb") as source:
            done = subprocess.run(
                [*self._enter, "/bin/sh", "-c", 'cat > "$1"', "sh", out_path],
                stdin=source,
                capture_output=True,
                check=False,
            )
        if done.returncode != 0:
            raise AnsibleError(f"cannot write {out_path}: {to_text(done.stderr)}")

    def fetch_file(self, in_path: str, out_path: str) -> None:
        self._connect()
        with open(out_path, "wb") as target:
            done = subprocess.run([*self._enter, "cat", in_path], stdout=target, stderr=subprocess.PIPE, check=False)
        if done.returncode != 0:
            os.unlink(out_path)
            raise AnsibleError(f"cannot read {in_path}: {to_text(done.stderr)}")

    def close(self) -> None:
        self._connected = False
