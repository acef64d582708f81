"""Bring something of a bundle to the host: packages together as one tar, or one file as it is."""

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

from appliance.errors import CasemateError

PACKAGES, FILE = {"bundle", "dest", "packages", "platform"}, {"bundle", "dest", "file"}


class ActionModule(ActionBase):
    """`packages` of `platform`, named in the tar as they are, or `file`, a member's name; to `dest`.

    What comes is compared on the host with what the lock says of it.
    """

    TRANSFERS_FILES = True

    def run(self, tmp=None, task_vars=None):
        super().run(tmp, task_vars)
        arguments = self._task.args
        if set(arguments) not in (PACKAGES, FILE):
            raise AnsibleActionFail(f"casemate_bundle takes {sorted(PACKAGES)} or {sorted(FILE)}")
        descriptor, local = tempfile.mkstemp(prefix="casemate-bundle-")
        try:
            with os.fdopen(descriptor, "wb") as target:
                self._write(arguments, target)
            directory = os.path.dirname(arguments["dest"])
            made = self._execute_module(
                module_name="ansible.builtin.file",
                module_args={"path": directory, "state": "directory"},
                task_vars=task_vars,
            )
            if not made.get("failed"):
                self._transfer_file(local, arguments["dest"])
        except CasemateError as error:
            raise AnsibleActionFail(f"{error.place}: {error.message}") from None
        finally:
            os.unlink(local)
        return made if made.get("failed") else {"changed": False}

    @staticmethod
    def _write(arguments, target):
        given = bundle.Bundle.trusting(Path(arguments["bundle"]))
        if "file" in arguments:
            given.copy(arguments["file"], target)
            return
        platform = arguments["platform"]
        packages = given.lock["platforms"][platform]["packages"]
        names = {name: bundle.package_file(platform, name, packages[name]) for name in arguments["packages"]}
        given.pack(names, target)
