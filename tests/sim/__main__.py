"""Command line of the simulator: `python -m tests.sim COMMAND ROOT ...`; see `--help`."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Callable
from typing import Any

from tests.sim import profile
from tests.sim.api import SimRoot
from tests.sim.fs import kernel


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.sim", description="A simulated NVIDIA driver in a directory."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("profiles", help="list the profiles")

    def add(name: str, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text)
        command.add_argument("root", metavar="ROOT")
        return command

    create = add("create", "make a driver root")
    create.add_argument("--profile", default="h100x8")
    create.add_argument("--seed", type=int, default=0, help="another seed gives other UUIDs")
    create.add_argument("--node", type=int, default=0, help="number of the node in its cluster")
    create.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="fabric.clique_id=7"
    )
    _add_faults(add)
    unload = add("unload-driver", "as rmmod")
    unload.add_argument("--uninstall", action="store_true", help="take the library away too")
    load = add("load-driver", "as modprobe")
    load.add_argument("--version", help="install this driver version first")
    bind = add("bind", "move a GPU to another PCI driver")
    bind.add_argument("gpu", type=int)
    bind.add_argument("driver", help="nvidia, vfio-pci, or none")
    add("kernel", "serve writes to the PCI drivers' bind and unbind, until interrupted")
    add("reboot", "MIG instances, settings and faults are gone")
    add("show", "print the hardware and the MIG instances as JSON")
    add("destroy", "remove the root")
    return parser


def _add_faults(add: Callable[[str, str], argparse.ArgumentParser]) -> None:
    fault = add("fault", "let calls fail, be slow, or hang; prints the fault's slot")
    fault.add_argument("function", help="NVML name, or '*'")
    fault.add_argument("--gpu", type=int)
    fault.add_argument("--code", type=int, default=0)
    fault.add_argument("--delay-ms", type=int, default=0)
    fault.add_argument("--hang", action="store_true")
    fault.add_argument("--times", type=int, default=0, help="0: until cleared")
    add("lose", "a GPU falls off the bus").add_argument("gpu", type=int)
    add("find", "a lost GPU is back").add_argument("gpu", type=int)
    xid = add("xid", "inject an XID event")
    xid.add_argument("gpu", type=int)
    xid.add_argument("number", type=int)
    xid.add_argument("--gi", type=int)
    xid.add_argument("--ci", type=int)
    setter = add("set", "set words of a GPU's state")
    setter.add_argument("gpu", type=int)
    setter.add_argument(
        "words", nargs="+", metavar="NAME=NUMBER", help="recovery_action=1 fabric_state=2 ..."
    )
    clear = add("clear", "no faults, no lost GPUs")
    clear.add_argument("--slot", type=int, help="this fault only")


def _changes(pairs: list[str]) -> dict[str, Any]:
    """`a.b=1` to {"a": {"b": 1}}."""
    changes: dict[str, Any] = {}
    for pair in pairs:
        key, _, value = pair.partition("=")
        at = changes
        *parents, last = key.split(".")
        for parent in parents:
            at = at.setdefault(parent, {})
        at[last] = int(value) if value.lstrip("-").isdigit() else value
    return changes


def _show(root: SimRoot, _: argparse.Namespace) -> None:
    gpus = [
        {"uuid": gpu.uuid, "bdf": gpu.bdf, "minor": gpu.minor, "name": gpu.model.name}
        for gpu in root.profile.gpus
    ]
    instances = [vars(instance) for instance in root.mig_instances()]
    print(
        json.dumps(
            {"driver": root.profile.driver_version, "gpus": gpus, "mig": instances}, indent=1
        )
    )


def _fault(root: SimRoot, args: argparse.Namespace) -> None:
    slot = root.fault(
        args.function,
        gpu=args.gpu,
        code=args.code,
        delay_ms=args.delay_ms,
        hang=args.hang,
        times=args.times,
    )
    print(slot)


def _clear(root: SimRoot, args: argparse.Namespace) -> None:
    if args.slot is None:
        root.clear()
    else:
        root.clear_fault(args.slot)


def _kernel(root: SimRoot, _: argparse.Namespace) -> None:
    core = kernel.PciKernel(root)
    signal.signal(signal.SIGTERM, lambda *_: core.stop())
    signal.signal(signal.SIGINT, lambda *_: core.stop())
    print("ready", flush=True)
    core.run()
    core.close()


_COMMANDS: dict[str, Callable[[SimRoot, argparse.Namespace], None]] = {
    "fault": _fault,
    "lose": lambda root, args: root.lose(args.gpu),
    "find": lambda root, args: root.find(args.gpu),
    "xid": lambda root, args: root.xid(args.gpu, args.number, args.gi, args.ci),
    "set": lambda root, args: root.set_gpu(args.gpu, **_changes(args.words)),
    "clear": _clear,
    "unload-driver": lambda root, args: root.unload_driver(uninstall=args.uninstall),
    "load-driver": lambda root, args: root.load_driver(args.version),
    "bind": lambda root, args: root.bind(args.gpu, None if args.driver == "none" else args.driver),
    "kernel": _kernel,
    "reboot": lambda root, _: root.reboot(),
    "show": _show,
    "destroy": lambda root, _: root.destroy(),
}


def main(argv: list[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    if args.command == "profiles":
        print("\n".join(profile.names()))
    elif args.command == "create":
        root = SimRoot.create(
            args.root, args.profile, seed=args.seed, node=args.node, change=_changes(args.set)
        )
        print(
            f"{root.path}: {len(root.profile.gpus)} x {root.profile.gpus[0].model.name}, driver {root.profile.driver_version}"
        )
    else:
        _COMMANDS[args.command](SimRoot.open(args.root), args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
