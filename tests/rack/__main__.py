"""``python -m tests.rack up|down|host|play|show``: a rack of simulated GPU hosts on this machine, and Ansible on it."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

# The builder of the packages is imported by the modules below, and lies beside the project's own.
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "packaging"))

from tests.beds.cluster import capability, commands
from tests.beds.cluster.errors import ClusterError
from tests.beds.rack import hosts, releases, tools
from tests.beds.rack.hosts import Rack
from tests.lib.waits import WaitError
from tests.rack.show import Show


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 1 when something did not come about."""
    words = list(sys.argv[1:] if argv is None else argv)
    at = words.index("--") if "--" in words else len(words)
    words, rest = words[:at], words[at + 1 :]
    arguments = _parser().parse_args(words)
    try:
        if reason := capability.why_not():
            raise ClusterError(f"this machine cannot run a rack: {reason}")
        return _run(arguments, rest)
    except (ClusterError, WaitError) as error:
        print(f"rack: {error}", file=sys.stderr)
        return 1


def _run(arguments: argparse.Namespace, rest: list[str]) -> int:
    if arguments.command == "up":
        rack = Rack.up(arguments.name, arguments.hosts, arguments.racks)
        print(f"inventory: {rack.home / 'inventory.json'}")
    elif arguments.command == "down":
        hosts.down(arguments.name)
    elif arguments.command == "host":
        argv = Rack.load(arguments.name).hosts[arguments.host].enter(rest or ["/bin/sh"])
        os.execvpe(argv[0], argv, {**os.environ, **commands.base_env()})
    elif arguments.command == "play":
        rack = Rack.load(arguments.name)
        program = str(tools.home() / "ansible-playbook")
        inventory = str(rack.home / "inventory.json")
        argv = [program, "-i", inventory, f"nvdra.node.{arguments.playbook}", *rest]
        os.execve(program, argv, tools.environment(rack.home))
    else:
        return _show(arguments)
    return 0


def _show(arguments: argparse.Namespace) -> int:
    made = releases.make(Path(arguments.packages))
    with Rack.up(arguments.name, arguments.hosts, arguments.racks) as rack:
        steps = Show(rack, made)
        is_kept = steps.run()
        if not is_kept:
            rack.keep_logs(Path(arguments.logs))
        print(steps.summary())
    return 0 if is_kept else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.rack", description=__doc__)
    several = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    up = several.add_parser("up", help="bring hosts up, without nvdra")
    several.add_parser("down", help="take them away")
    host = several.add_parser("host", help="run a command on a host: host rack1-01 -- systemctl")
    host.add_argument("host")
    play = several.add_parser("play", help="run a playbook: play site -- -e nvdra_package_dir=...")
    play.add_argument("playbook")
    show = several.add_parser("show", help="make rack: all promises of a rollout, one by one")
    top = Path(__file__).resolve().parents[2] / "out"
    show.add_argument("--packages", default=str(top / "rack-packages"))
    show.add_argument("--logs", default=str(top / "rack-logs"), help="kept when a step fails")
    for one in (up, show):
        one.add_argument("--hosts", type=int, default=3)
        one.add_argument("--racks", type=int, default=2)
    for one in several.choices.values():
        one.add_argument("--name", default=hosts.NAME)
    return parser


if __name__ == "__main__":
    sys.exit(main())
