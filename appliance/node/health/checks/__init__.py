"""The checks, by topic. Importing this package registers them all; the order here is the order of the output."""

from appliance.node.health.checks import system, resources, packages, network, storage, edge, running, release  # noqa: F401, I001
