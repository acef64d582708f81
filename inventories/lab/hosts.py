#!/usr/bin/env python3
"""The running lab's hosts as an Ansible dynamic inventory.

`appliance lab up` keeps them in ${CASEMATE_LAB_DIR:-/var/lib/casemate-lab}/hosts.json, in the form of a static
inventory. Without a lab this prints an inventory without hosts.
"""

import json
import os
import sys
from pathlib import Path


def main() -> None:
    lab = Path(os.environ.get("CASEMATE_LAB_DIR", "/var/lib/casemate-lab"))
    try:
        static = json.loads((lab / "hosts.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        static = {}
    except (OSError, ValueError) as error:
        sys.exit(f"{lab / 'hosts.json'} cannot be read: {error}; `appliance lab up` writes it anew")
    inventory: dict = {"_meta": {"hostvars": {}}}
    for group, content in static.items():
        hosts = content.get("hosts") or {}
        inventory[group] = {"hosts": list(hosts)}
        inventory["_meta"]["hostvars"].update({name: variables or {} for name, variables in hosts.items()})
    json.dump(inventory, sys.stdout, indent=2)


if __name__ == "__main__":
    main()
