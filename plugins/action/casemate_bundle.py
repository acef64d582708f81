"""Bring files of a bundle to the host, as one tar."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

try:
    from appliance import bundle
except ImportError:  # plain ansible-playbook in a checkout, from an environment without Casemate
    sys.path.append(str(Path(__file__).resolve().parents[2]))
    from appliance import bundle

KEYS = {"bundle", "dest", "packages", "platform"}


class ActionModule(ActionBase):
    """`packages` of `platform`, each named as its package is. What the host makes of them it compares with the lock."""

    TRANSFERS_FILES = True

    def run(self, tmp=None, task_vars=None):
        super().run(tmp, task_vars)
        arguments = self._task.args
        if set(arguments) != KEYS:
            raise AnsibleActionFail(f"casemate_bundle takes {', '.join(sorted(KEYS))}")
        given = bundle.Bundle.trusting(Path(arguments["bundle"]))
        packages = given.lock["platforms"][arguments["platform"]]["packages"]
        names = {
            name: bundle.package_file(arguments["platform"], name, packages[name]) for name in arguments["packages"]
        }
        descriptor, local = tempfile.mkstemp(prefix="casemate-bundle-")
        try:
            with os.fdopen(descriptor, "wb") as target:
                given.pack(names, target)
            directory = os.path.dirname(arguments["dest"])
            made = self._execute_module(
                module_name="ansible.builtin.file",
                module_args={"path": directory, "state": "directory", "mode": "0755"},
                task_vars=task_vars,
            )
            if made.get("failed"):
                return made
            self._transfer_file(local, arguments["dest"])
        finally:
            os.unlink(local)
        return {"changed": False, "packages": sorted(names)}
