"""Filter of role edge: what may be told of a CloudCore token."""

from __future__ import annotations

import base64
import binascii
import json
import re

FORM = re.compile(r"([0-9a-fA-F]{64})\.([\w-]+)\.([\w-]+)\.([\w-]+)")


def casemate_edge_token(token: str) -> dict:
    """{"problem", "ca", "expires"} of a token, SHA256-OF-THE-CA.JWT: none of it is secret.

    `problem` is "" for a token of that form and for none at all; `ca` is its CA's SHA-256 in hex; `expires` the second
    since the epoch from which the cloud refuses it, 0 where it does not say.
    """
    text = str(token).strip()
    if not text:
        return {"problem": "", "ca": "", "expires": 0}
    match = FORM.fullmatch(text)
    if match is None:
        parts = text.split(".")
        problem = f"it has {len(parts)} parts instead of 4" if len(parts) != 4 else "a part has the wrong form"
        return {"problem": problem, "ca": "", "expires": 0}
    try:
        payload = json.loads(base64.urlsafe_b64decode(match[3] + "=" * (-len(match[3]) % 4)))
        expires = int(payload.get("exp", 0))
    except (ValueError, AttributeError, TypeError, binascii.Error):
        return {"problem": "its second part is no JWT", "ca": "", "expires": 0}
    return {"problem": "", "ca": match[1].lower(), "expires": expires}


class FilterModule:
    """Registers the filter with Ansible."""

    def filters(self):
        return {"casemate_edge_token": casemate_edge_token}
