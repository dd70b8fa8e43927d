"""Starts the command line of the benchmarks."""

import sys

from tests.bench.cli import main

sys.exit(main())
