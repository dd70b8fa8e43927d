"""The command line: `python -m tests.beds.cluster build|up|down|list|kubectl|node|image|logs|why-not`.

Progress goes to stderr, so that what `kubectl` and `node` print can be piped. Exit status: that of
the command run in the cluster, 1 for an error of the cluster, 2 for wrong arguments.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.beds.cluster import capability, commands, lifecycle
from tests.beds.cluster import layout as layouts
from tests.beds.cluster.api import Cluster
from tests.beds.cluster.artifacts import build, programs
from tests.beds.cluster.errors import ClusterError
from tests.lib.waits import WaitError

DEFAULT_NAME = "test"


def main(argv: list[str] | None = None) -> int:
    """Run one command; return the exit status."""
    words = sys.argv[1:] if argv is None else argv
    words, rest = _split(words)
    arguments = _parser().parse_args(words)
    arguments.rest = rest
    command: Callable[[argparse.Namespace], int] = arguments.command
    try:
        return command(arguments)
    except (ClusterError, WaitError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _split(words: list[str]) -> tuple[list[str], list[str]]:
    """Part what is ours from what follows the first "--"."""
    if "--" not in words:
        return words, []
    at = words.index("--")
    return words[:at], words[at + 1 :]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.beds.cluster",
        description="A real Kubernetes of 1 to 18 nodes on this machine. Start with: up --nodes 2",
    )
    commands_ = parser.add_subparsers(required=True, metavar="COMMAND")
    versions = ", ".join(programs.KUBERNETES)

    one = commands_.add_parser("build", help="build all programs now (about 20 minutes, once)")
    one.add_argument("--kubernetes", action="append", metavar="MINOR", help=f"one of {versions}")
    one.set_defaults(command=_build)

    one = commands_.add_parser("up", help="start a cluster and wait until its nodes are Ready")
    _add_name(one)
    one.add_argument("--nodes", type=int, default=1, help=f"1 to {layouts.MAX_NODES}")
    one.add_argument("--systemd-nodes", type=int, default=0, help="how many of them run systemd")
    one.add_argument("--kubernetes", default=programs.NEWEST, help=f"one of {versions}")
    one.add_argument("--feature-gates", type=_gates, default={}, metavar="A=true,B=false")
    one.set_defaults(command=_up)

    one = commands_.add_parser("down", help="remove a cluster, whole or half")
    _add_name(one)
    one.add_argument("--all", action="store_true", help="every cluster of this machine")
    one.set_defaults(command=_down)

    one = commands_.add_parser("list", help="show the clusters of this machine")
    one.set_defaults(command=_list)

    one = commands_.add_parser("kubectl", help="run kubectl: kubectl --name N -- get pods")
    _add_name(one)
    one.set_defaults(command=_kubectl)

    one = commands_.add_parser("node", help="run a command in a node: node node-1 -- ip addr")
    _add_name(one)
    one.add_argument("node", metavar="NODE")
    one.set_defaults(command=_node)

    one = commands_.add_parser("image", help="import image archives into all nodes, or list images")
    _add_name(one)
    one.add_argument("archives", nargs="*", type=Path, metavar="TAR")
    one.set_defaults(command=_image)

    one = commands_.add_parser("logs", help="print a program's log, or the names of all logs")
    _add_name(one)
    one.add_argument("component", nargs="?", metavar="COMPONENT")
    one.set_defaults(command=_logs)

    one = commands_.add_parser("why-not", help="say whether this machine can run a cluster")
    one.set_defaults(command=_why_not)
    return parser


def _add_name(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--name", default=DEFAULT_NAME, help=f"the cluster ({DEFAULT_NAME!r})")


def _gates(text: str) -> dict[str, bool]:
    gates = {}
    for word in text.split(","):
        name, _, value = word.partition("=")
        if value.lower() not in ("true", "false"):
            raise argparse.ArgumentTypeError(f"{word!r} is not NAME=true or NAME=false")
        gates[name] = value.lower() == "true"
    return gates


def _build(arguments: argparse.Namespace) -> int:
    for minor in arguments.kubernetes or programs.KUBERNETES:
        build.ensure(minor)
        print(programs.kubernetes(minor).home())
    return 0


def _up(arguments: argparse.Namespace) -> int:
    start = time.monotonic()
    cluster = Cluster.up(
        arguments.name,
        arguments.nodes,
        arguments.kubernetes,
        feature_gates=arguments.feature_gates,
        systemd_nodes=arguments.systemd_nodes,
    )
    build.say_on_stderr(
        f"cluster {cluster.name}: {arguments.nodes} nodes"
        f" with Kubernetes {cluster.kubernetes} Ready in {time.monotonic() - start:.1f} s\n"
        f"next: python -m tests.beds.cluster kubectl --name {cluster.name} -- get nodes"
    )
    return 0


def _down(arguments: argparse.Namespace) -> int:
    for name in layouts.names() if arguments.all else [arguments.name]:
        lifecycle.down(name)
        build.say_on_stderr(f"cluster {name} is gone")
    return 0


def _list(_: argparse.Namespace) -> int:
    for name in layouts.names():
        try:
            layout = layouts.load(name)
        except ClusterError:
            print(f"{name}\tnot whole; run: python -m tests.beds.cluster down --name {name}")
            continue
        print(f"{name}\tKubernetes {layout.kubernetes}\t{len(layout.nodes)} nodes\t{layout.home}")
    return 0


def _kubectl(arguments: argparse.Namespace) -> int:
    cluster = Cluster.load(arguments.name)
    argv = [*cluster.enter, str(cluster.layout.program("kubectl")), *arguments.rest]
    return _replace(argv, {**os.environ, **commands.base_env(cluster.environment)})


def _node(arguments: argparse.Namespace) -> int:
    node = Cluster.load(arguments.name).node(arguments.node)
    return _replace(
        node.enter(arguments.rest or ["/bin/sh"]), {**os.environ, **commands.base_env()}
    )


def _replace(argv: list[str], env: dict[str, str]) -> int:
    """Become another program, so that it has the terminal, the signals and the exit status."""
    sys.stdout.flush()
    os.execvpe(argv[0], argv, env)


def _image(arguments: argparse.Namespace) -> int:
    cluster = Cluster.load(arguments.name)
    cluster.import_images(*arguments.archives)
    if not arguments.archives:
        print(cluster.nodes[0].ctr("images", "list", "--quiet"), end="")
    return 0


def _logs(arguments: argparse.Namespace) -> int:
    cluster = Cluster.load(arguments.name)
    if arguments.component:
        print(cluster.log(arguments.component), end="")
    else:
        print("\n".join(sorted(path.stem for path in cluster.layout.logs.glob("*.log"))))
    return 0


def _why_not(_: argparse.Namespace) -> int:
    reason = capability.why_not()
    print(reason or "this machine can run a cluster")
    return 1 if reason else 0
