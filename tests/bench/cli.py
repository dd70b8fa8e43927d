"""The command line: `python -m tests.bench plugin|pods|all`. Tables on stdout, progress on stderr, JSON into a file."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.beds.cluster import capability
from tests.beds.cluster.artifacts.programs import cache_dir
from tests.bench import pods, report
from tests.bench.errors import BenchError
from tests.bench.plugin import benchmark
from tests.bench.plugin.contender import BUILT_IN, Contender
from tests.bench.plugin.rounds import QUICK, Effort
from tests.bench.report import Report

VS_HELP = f"""another plugin to put beside it: {", ".join(BUILT_IN)}, or a name and a command line with placeholders
({{kubeconfig}} {{service_kubeconfig}} {{node}} {{registry}} {{plugins}} {{cdi}} {{state}} {{run}} {{root}} {{ctk}}
{{cdi_hook}} {{python}}); may be given again"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run what the arguments ask for; 1 with --check and a missed goal, 2 when something could not be measured."""
    args = _parser().parse_args(argv)
    reports: list[Report] = []
    try:
        for benchmark in _benchmarks(args):
            reports.append(benchmark(args))
            print(report.table(reports[-1]), end="\n\n", flush=True)
    except BenchError as error:
        print(f"error: {error}", *getattr(error, "__notes__", []), sep="\n", file=sys.stderr)
        return 2
    if args.json:
        document = {"reports": [report.to_json(one) for one in reports]}
        Path(args.json).write_text(json.dumps(document, indent=1) + "\n")
    misses = [measure for one in reports for measure in one.misses()]
    if misses:
        print(f"goals missed: {', '.join(measure.key for measure in misses)}")
    return 1 if misses and args.check else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("what", choices=["plugin", "pods", "all"])
    parser.add_argument("--driver", choices=sorted(BUILT_IN), default="ours", help="what is judged")
    parser.add_argument("--vs", action="append", default=[], metavar="NAME[=COMMAND]", help=VS_HELP)
    parser.add_argument("--rounds", type=int, help="interleaved rounds (5; 2 with --quick)")
    parser.add_argument(
        "--patience", type=float, default=0.0, metavar="SECONDS",
        help="repeat rounds that others disturbed for so long (otherwise as many again)",
    )  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="a smoke run of less than a minute")
    parser.add_argument("--json", metavar="FILE", help="write all figures there")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a goal is missed")
    parser.add_argument(
        "--work",
        type=Path,
        default=cache_dir() / "bench" / "runs",
        help="where plugins keep their state; should be a real disk",
    )
    return parser


def _benchmarks(args: argparse.Namespace) -> list[Callable[[argparse.Namespace], Report]]:
    """Return what to run; `all` leaves out what this machine cannot do, and says so."""
    if args.what == "plugin":
        return [_plugin]
    if args.what == "pods":
        return [_pods]
    obstacle = capability.why_not()
    if obstacle:
        print(f"pods are not measured: {obstacle}", file=sys.stderr)
        return [_plugin]
    return [_plugin, _pods]


def _rounds(args: argparse.Namespace) -> int:
    number: int = args.rounds or (2 if args.quick else 5)
    return number


def _contenders(args: argparse.Namespace) -> list[Contender]:
    contenders = [Contender.parse(text) for text in (args.driver, *args.vs)]
    if len({one.name for one in contenders}) < len(contenders):
        raise BenchError("two plugins have the same name")
    return contenders


def _plugin(args: argparse.Namespace) -> Report:
    contenders = _contenders(args)
    effort = QUICK if args.quick else Effort()
    return benchmark.compare(
        contenders,
        number=_rounds(args),
        effort=effort,
        work=args.work,
        patience_s=args.patience,
    )


def _pods(args: argparse.Namespace) -> Report:
    return pods.compare(_contenders(args), number=_rounds(args), work=args.work)
