"""Hold a host for one run. The lock lives on the host; whether its owner lives is asked where the owner runs."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

try:
    from appliance.processes import describe, start_time
except ImportError:  # plain ansible-playbook in a checkout, from an environment without Casemate
    sys.path.append(str(Path(__file__).resolve().parents[2]))
    from appliance.processes import describe, start_time

EXPIRES = 1800  # seconds; an owner on another machine cannot be asked, so its lock ages


class ActionModule(ActionBase):
    """`state: held` takes or renews the lock, `state: free` lets go of one that is ours, `state: absent` removes it."""

    TRANSFERS_FILES = False

    def run(self, tmp=None, task_vars=None):
        super().run(tmp, task_vars)
        mine = owner()
        args = {"state": self._task.args["state"], "owner": json.dumps(mine), "expires": EXPIRES}
        result = self._execute_module(module_name="casemate_lock", module_args=args, task_vars=task_vars)
        held = result.get("held_by")
        if held and dead(held, mine):
            args["instead_of"] = held["run"]
            result = self._execute_module(module_name="casemate_lock", module_args=args, task_vars=task_vars)
            held = result.get("held_by")
        if held:
            age = int(time.time() - held["since"])
            raise AnsibleActionFail(
                f"another run holds this host: 'appliance {held['verb']}' by {held['user']} on {held['machine']}, "
                f"pid {held['pid']}, started {age} s ago. Wait until it ends; a dead run's lock expires "
                f"after {EXPIRES // 60} minutes."
            )
        return result


def owner() -> dict:
    """Who we are, as the lock file will say it; `appliance` passes it on, plain ansible-playbook makes its own."""
    passed = os.environ.get("CASEMATE_RUN")
    if passed:
        return json.loads(passed)
    pid = os.getppid()  # an action runs in a worker; the run is its parent
    return describe(pid, "ansible-playbook")


def dead(held: dict, mine: dict) -> bool:
    """Whether the owner is certainly gone: it ran on this machine and boot, and its process ended."""
    return held.get("boot") == mine["boot"] and start_time(held["pid"]) != held["started"]
