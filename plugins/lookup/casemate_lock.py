"""What a lock says for one platform."""

from __future__ import annotations

DOCUMENTATION = """
name: casemate_lock
short_description: a lock's part for a platform
description:
  - Reads and checks a lock that C(appliance lock) made.
options:
  _terms:
    description: The lock's path, and the platform, such as debian-12/amd64.
    required: true
author: Casemate
"""

RETURN = """
_raw:
  description: >-
    One element, {id, release, node, images, packed}; packed is all that the platform's hosts need of the lock, small
    enough to be an argument.
  type: list
"""

import sys
from pathlib import Path

from ansible.errors import AnsibleError
from ansible.plugins.lookup import LookupBase

try:
    from appliance import lock
except ImportError:  # plain ansible-playbook in a checkout, from an environment without Casemate
    sys.path.append(str(Path(__file__).resolve().parents[2]))
    from appliance import lock

from appliance.errors import CasemateError


class LookupModule(LookupBase):
    def run(self, terms, variables=None, **kwargs):
        path, platform = terms
        try:
            part = lock.for_platform(lock.read(Path(path)), platform)
            return [{key: part[key] for key in ("id", "release", "node", "images")} | {"packed": lock.pack(part)}]
        except CasemateError as error:
            raise AnsibleError(f"{path}: {error.message}; {error.cure}") from None
