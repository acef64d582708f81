"""The node programs as one deterministic, runnable zip."""

from __future__ import annotations

DOCUMENTATION = """
name: casemate_node
short_description: path of the archive of the node programs
description:
  - Packs appliance/node of this very installation into a zip that Python can run, once per content.
  - The same sources give the same bytes, so its SHA-256 names the release of the node programs.
options: {}
author: Casemate
"""

RETURN = """
_raw:
  description: One element, {path, id, sha256, version}; id is the first 12 digits of the archive's SHA-256.
  type: list
"""

import sys
from pathlib import Path

from ansible.plugins.lookup import LookupBase

try:
    from appliance.archive import node_archive
except ImportError:  # plain ansible-playbook in a checkout, from an environment without Casemate
    sys.path.append(str(Path(__file__).resolve().parents[2]))
    from appliance.archive import node_archive


class LookupModule(LookupBase):
    def run(self, terms, variables=None, **kwargs):
        return [node_archive()]
