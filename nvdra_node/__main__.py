"""``python -m nvdra_node``: the same as the command ``nvdra-node``."""

import sys

from nvdra_node.cli import main

sys.exit(main())
