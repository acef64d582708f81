"""Runs on an appliance: every pod sandbox, whether it is up, and whether the pod runner made it."""

import json

from appliance.node.pods.cri import Cri

listed = [
    {
        "name": sandbox.metadata.name,
        "up": sandbox.state == 0,
        "runner": "io.casemate.managed-by" in sandbox.labels,
        "source": sandbox.annotations.get("kubernetes.io/config.source", ""),
    }
    for sandbox in Cri().sandboxes()
]
print(json.dumps({"pods": listed}))
