"""Remove one part of Casemate from a host: sends the node programs along and runs their `reset PART` there."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

try:
    from appliance.archive import node_archive
except ImportError:  # plain ansible-playbook in a checkout, from an environment without Casemate
    sys.path.append(str(Path(__file__).resolve().parents[2]))
    from appliance.archive import node_archive

PYTHON = "/usr/bin/python3"  # the distribution's: it has the modules that talk to the engine


class ActionModule(ActionBase):
    """`part` as appliance/node/reset/cli.py names it, `options` for it.

    Returns `removed`, what was (in check mode: would be) removed; `kept`, what stays and why; `present` for `look`.
    """

    _supports_check_mode = True

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        unknown = set(self._task.args) - {"part", "options"}
        if unknown or "part" not in self._task.args:
            raise AnsibleActionFail(f"casemate_reset needs 'part', may have 'options', and knows no {sorted(unknown)}")
        directory = self._make_tmp_path()
        try:
            program = self._connection._shell.join_path(directory, "casemate-node.pyz")
            self._transfer_file(node_archive()["path"], program)
            argv = [PYTHON, program, "reset", str(self._task.args["part"])]
            argv += ["--options", json.dumps(self._task.args.get("options", {}))]
            argv += ["--check"] if self._task.check_mode else []
            done = self._low_level_execute_command(shlex.join(argv))
        finally:
            self._remove_tmp_path(directory)
        if done["rc"] != 0:
            raise AnsibleActionFail(done["stderr"].strip() or done["stdout"].strip())
        said = json.loads(done["stdout_lines"][-1])
        result.update(said, changed=bool(said.get("removed")))
        return result
