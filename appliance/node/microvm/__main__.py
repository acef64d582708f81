"""What the launcher starts: appliance.node.microvm.cli, in the release that this file belongs to."""

import os
import sys

sys.path.insert(0, os.path.realpath(__file__).rpartition("/appliance/")[0])

from appliance.node.microvm.cli import main

sys.exit(main(sys.argv[1:]))
