"""``python -m tests.bench.domain``: a job over the nodes of a rack, with a ComputeDomain and without; see ``bench``."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "packaging"))

from tests.beds.cluster import capability
from tests.beds.cluster.artifacts import programs
from tests.bench.domain import bench, report


def main() -> int:
    """Measure and print; 1 with ``--check`` when a goal was missed."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.domain", description=__doc__)
    parser.add_argument("--nodes", type=int, default=18, help="1 to 18; default: a whole rack")
    parser.add_argument("--rounds", type=int, default=3, help="of each kind, after one to warm up")
    parser.add_argument(
        "--kubernetes", default=programs.NEWEST, choices=sorted(programs.KUBERNETES)
    )
    parser.add_argument("--isolation", default="domain", choices=("domain", "channel"))
    parser.add_argument(
        "--patience", type=float, default=0.0, metavar="SECONDS",
        help="how long rounds that others disturbed are repeated, beyond --rounds; default: 0",
    )  # fmt: skip
    parser.add_argument("-o", "--output", default="text", choices=("text", "json"))
    parser.add_argument("--check", action="store_true", help="fail when a goal is missed")
    arguments = parser.parse_args()
    if reason := capability.why_not():
        print(f"this machine cannot run a cluster: {reason}", file=sys.stderr)
        return 1
    result = bench.run(
        arguments.nodes, arguments.rounds, arguments.kubernetes, arguments.isolation,
        arguments.patience,
    )  # fmt: skip
    if arguments.output == "json":
        print(json.dumps(result.document(), indent=1))
    else:
        print(report.text(result))
    missed = report.misses(result) if arguments.check else []
    for line in missed:
        print(f"!! missed: {line}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
