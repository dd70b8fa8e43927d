"""The command ``nvdra-node``: one sub-command per systemd unit, and the commands that check or describe settings.

The only place that reads the environment, the command line and the configuration file; everything below gets a frozen
``NodeConfig``. Exit status: 0 success, 1 failure, 2 wrong settings.
"""

from __future__ import annotations

import argparse
import importlib
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from nvdra_core.errors import ConfigError, NvdraError
from nvdra_node import config

EXIT_FAILED = 1
EXIT_CONFIG = 2
_SERVICES = {
    "gpu": "gpu",
    "compute-domain": "computedomain",
    "imex-supervisor": "imex",
    "unit-broker": "broker",
}
"""Command -> module of ``app`` that runs it."""
_COMMANDS = {
    "gpu": "run the kubelet plugin for gpu.nvidia.com (nvdra-gpu-plugin.service)",
    "compute-domain": (
        "run the kubelet plugin for compute-domain.nvidia.com (nvdra-compute-domain-plugin.service)"
    ),
    "imex-supervisor": "run this node's IMEX daemon (nvdra-imex-supervisor.service)",
    "unit-broker": "start and stop units for the other services (nvdra-unit-broker.service)",
    "check-config": "check all settings and print each with its source",
    "renew-credential": "renew this node's own token if it is due (nvdra-credential.service)",
    "check-credential": "check that the API server would renew this node's own token",
    "withdraw": "delete this node's ResourceSlices of both drivers (before uninstalling)",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Errors of ours are printed, not raised."""
    arguments = _parser().parse_args(argv)
    try:
        settings = _load(arguments)
        return _run(arguments.command, settings)
    except ConfigError as error:
        print(f"nvdra-node: {error}", file=sys.stderr)
        return EXIT_CONFIG
    except NvdraError as error:
        print(f"nvdra-node: {error.reason}: {error}", file=sys.stderr)
        return EXIT_FAILED


def _run(command: str, settings: config.NodeConfig) -> int:
    if command == "check-config":
        return _check(settings)
    # Imported here: each process loads only its own service.
    from nvdra_node.app.environment import SystemdEnvironment

    system = SystemdEnvironment.read(os.environ)
    if command in ("renew-credential", "check-credential"):
        from nvdra_node.app import renewal

        is_check = command == "check-credential"
        if result := renewal.check(settings) if is_check else renewal.run(settings, system):
            print(result)
        return 0
    if command == "withdraw":
        from nvdra_node.app import gpu

        return gpu.withdraw(settings)
    service = importlib.import_module(f"nvdra_node.app.{_SERVICES[command]}")
    return int(service.run(settings, system))


def _check(settings: config.NodeConfig) -> int:
    from nvdra_node.app import dependencies, gpu

    gpu.parse_gates(settings)
    settings = dependencies.checked(settings)
    for warning in dependencies.warnings(settings):
        print(f"nvdra-node: {warning}", file=sys.stderr)
    width = max(len(key) for key in settings.sources)
    for key, value in config.describe(settings).items():
        print(f"{key:<{width}}  {value!s:<40}  {settings.sources[key]}")
    return 0


def _load(arguments: argparse.Namespace) -> config.NodeConfig:
    path = Path(arguments.config or config.DEFAULT_FILE)
    flags = {
        option.field: getattr(arguments, option.field)
        for option in config.OPTIONS
        if getattr(arguments, option.field) is not None
    }
    settings = config.load(
        file_text=_read(path, must_exist=arguments.config is not None),
        file_name=str(path),
        environment=_environment(),
        flags=flags,
        host_name=socket.gethostname(),
    )
    return settings


def _environment() -> Mapping[str, str]:
    names = [option.env for option in config.OPTIONS if option.env]
    return {name: os.environ[name] for name in names if name in os.environ}


def _read(path: Path, *, must_exist: bool) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        if must_exist:
            raise ConfigError(
                f"{path}: no such file; --config names one that does not exist"
            ) from None
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path}: cannot be read: {error}; check its permissions and encoding"
        ) from error


def _parser() -> argparse.ArgumentParser:
    """All commands; every one takes the options of all settings."""
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument(
        "--config", metavar="FILE", help=f"settings; default: {config.DEFAULT_FILE}"
    )
    for option in config.OPTIONS:
        options.add_argument(
            *option.flags, dest=option.field, metavar="VALUE", help=option.help.replace("%", "%%")
        )
    parser = argparse.ArgumentParser(
        prog="nvdra-node",
        description="NVIDIA devices of this host for Kubernetes, by Dynamic Resource Allocation",
        epilog="Settings come from flags, then the environment, then the file, then the defaults.",
    )
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="COMMAND", prog="nvdra-node"
    )
    for name, text in _COMMANDS.items():
        commands.add_parser(name, help=text, description=text, parents=[options])
    return parser


if __name__ == "__main__":
    sys.exit(main())
