"""The checks, by topic. Importing this package registers them all; the order here is the order of the output."""

from appliance.node.health.checks import (  # noqa: I001
    system, resources, packages, network, storage, disks, edge, running, release, backup, migrate, objects,  # noqa: F401
)  # fmt: skip
