"""Starts the command line of the test cluster."""

import sys

from tests.beds.cluster.cli import main

sys.exit(main())
