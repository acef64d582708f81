"""Take, renew or free the lock of this host."""

from __future__ import annotations

DOCUMENTATION = """
module: casemate_lock
short_description: one run at a time on a host
description: Keeps /run/casemate/run.lock, which names the run that changes the host. It is gone with a reboot.
options:
  state:
    description: Take or renew the lock (held), let go of it if it is ours (free), or remove it if it is ours (absent).
    type: str
    choices: [held, free, absent]
    required: true
  owner:
    description: JSON that describes the run; made by the action plugin.
    type: str
    required: true
  expires:
    description: Seconds after which a lock that was not renewed is void.
    type: int
    required: true
  instead_of:
    description: Take the lock although this run has it.
    type: str
author: Casemate
"""

RETURN = """
held_by:
  description: The other run that has the lock.
  type: dict
  returned: when the lock was not taken
"""

import contextlib
import fcntl
import json
import os
import time

from ansible.module_utils.basic import AnsibleModule

LOCK = "/run/casemate/run.lock"


def main():
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["held", "free", "absent"], "required": True},
            "owner": {"type": "str", "required": True},
            "expires": {"type": "int", "required": True},
            "instead_of": {"type": "str"},
        },
    )
    mine = json.loads(module.params["owner"])
    with locked() as lock:
        lock.seek(0)
        held = parse(lock.read())
        if held and held["run"] != mine["run"]:
            fresh = time.time() - os.fstat(lock.fileno()).st_mtime < module.params["expires"]
            if fresh and held["run"] != module.params["instead_of"]:
                if module.params["state"] != "held":
                    module.exit_json(changed=False)
                module.exit_json(changed=False, held_by=held)
        lock.truncate(0)
        if module.params["state"] == "held":
            lock.write(json.dumps(mine) + "\n")
        if module.params["state"] == "absent":
            os.unlink(LOCK)
            remove_if_empty(os.path.dirname(LOCK))
    # a lock is no change to the host: a run that only takes and frees it changed nothing
    module.exit_json(changed=False)


def locked():
    """The lock's file, open and locked for the moment of reading and writing only. Another run may remove the file."""
    while True:
        os.makedirs(os.path.dirname(LOCK), mode=0o755, exist_ok=True)
        lock = open(LOCK, "a+")  # noqa: SIM115 - the caller closes it
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.path.exists(LOCK) and os.path.samestat(os.fstat(lock.fileno()), os.stat(LOCK)):
            return lock
        lock.close()


def remove_if_empty(directory):
    with contextlib.suppress(OSError):
        os.rmdir(directory)


def parse(text):
    """The lock's owner; None for a lock that is free, or that a killed run left half-written."""
    try:
        return json.loads(text)
    except ValueError:
        return None


if __name__ == "__main__":
    main()
