"""Starts the command line of the test cluster."""

import sys

from tests.cluster.cli import main

sys.exit(main())
