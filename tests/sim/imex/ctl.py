"""`nvidia-imex-ctl`, simulated: `-q`, `-n`, `-N`, with `-j`."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from tests.sim.imex import commands, settings
from tests.sim.imex.settings import Control, WrongSettingsError

UNREADABLE = 255


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="nvidia-imex-ctl")
    parser.add_argument("-i", nargs=2, metavar=("IP", "PORT"))
    parser.add_argument("-u", "--u", metavar="SOCKET")
    parser.add_argument("-c", metavar="CONFIG")
    for flag in "nNqsdm":
        parser.add_argument(f"-{flag}", action="store_true")
    parser.add_argument("-t", type=int, metavar="MS")
    parser.add_argument("-H", action="store_true")
    parser.add_argument("-j", action="store_true")
    return parser.parse_args()


def target(arguments: argparse.Namespace, values: dict[str, str]) -> str | tuple[str, int]:
    """Where the command service is."""
    if arguments.u:
        return str(arguments.u)
    if arguments.i:
        return arguments.i[0], int(arguments.i[1])
    if values["IMEX_CMD_UNIX_DOMAIN_PATH"]:
        return values["IMEX_CMD_UNIX_DOMAIN_PATH"]
    return values["IMEX_CMD_BIND_INTERFACE_IP"], int(values["IMEX_CMD_PORT"])


def table(answer: dict[str, Any]) -> str:
    """The domain for people."""
    rows = [f"Domain State: {answer['status']}"]
    for number, node in sorted(answer["nodes"].items(), key=lambda item: int(item[0])):
        rows.append(f"Node #{number:<4} {node['hostName']:<40} {node['status']}")
    return "\n".join(rows)


def run(arguments: argparse.Namespace, control: Control) -> int:
    values = settings.parse(Path(arguments.c).read_text() if arguments.c else "")
    if arguments.N:
        settings.read_nodes(values["IMEX_NODE_CONFIG_FILE"])
    if control.get("ctl_hang"):
        time.sleep(3600)
    timeout_s = arguments.t / 1000 if arguments.t else None
    query = "domain" if arguments.N or arguments.n else "status"
    answer = commands.ask(target(arguments, values), query, timeout_s)
    if query == "status":
        text = json.dumps({"status": answer["status"]}) if arguments.j else str(answer["status"])
    else:
        text = json.dumps(answer) if arguments.j else table(answer)
    sys.stdout.write(text + "\n")
    return 0


def main() -> int:
    arguments = parse()
    control = Control(settings.root() / settings.CONTROL)
    if arguments.s or arguments.d or arguments.m:
        sys.stderr.write("not simulated\n")
        return 2
    try:
        return run(arguments, control)
    except WrongSettingsError as error:
        sys.stderr.write(f"{error}\n")
        return UNREADABLE
    except (OSError, ValueError) as error:
        sys.stderr.write(f"Failed to connect to IMEX daemon: {error}\n")
        return 1


if __name__ == "__main__":
    raise SystemExit(main())
