"""`python3 -m appliance.node.health`."""

import sys

from appliance.node.health.cli import main

sys.exit(main())
