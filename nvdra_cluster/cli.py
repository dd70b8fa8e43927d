"""The command ``nvdra-controller``: reads flags and environment, builds the controller, runs it.

Flags and environment names are upstream's (compute-domain-controller) where upstream has the same
thing. Exit status: 0 stopped, 1 failed, 2 invalid settings.
"""

from __future__ import annotations

import argparse
import os
import re
import secrets
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from nvdra_cluster.settings import (
    DEFAULT_PORTS,
    ControllerSettings,
    FabricSettings,
    ImexMode,
    LeaseTimes,
    PortRange,
)
from nvdra_core import __version__
from nvdra_core.api import Isolation
from nvdra_core.errors import ConfigError, NvdraError
from nvdra_core.gates import FeatureGates, Gate
from nvdra_core.runtime import log
from nvdra_core.runtime.clock import SystemClock
from nvdra_core.runtime.systemd import Notifier
from nvdra_core.runtime.workers import Workers

if TYPE_CHECKING:
    from nvdra_cluster.kube.config import AccessConfig

ChoiceT = TypeVar("ChoiceT", ImexMode, Isolation)

EXIT_FAILED = 1
EXIT_CONFIG = 2
_LOG = log.get(__name__)


@dataclass(frozen=True, slots=True)
class Flag:
    """One setting: flag, environment name, default, help."""

    name: str
    env: str
    default: str
    help: str


FLAGS = (
    Flag("--pod-name", "POD_NAME", "", "name of this replica; part of its identity in the Lease"),
    Flag("--namespace", "NAMESPACE", "", "namespace of cliques, Lease and CA; default: the pod's own"),
    Flag("--kubeconfig", "KUBECONFIG", "", "kubeconfig to use; default: the pod's own credentials"),
    Flag("--max-nodes-per-imex-domain", "MAX_NODES_PER_IMEX_DOMAIN", "18", "slots of a clique"),
    Flag("--imex-mode", "IMEX_MODE", "driverManaged", "who runs IMEX: driverManaged or hostManaged"),
    Flag("--imex-isolation", "IMEX_ISOLATION", "domain", "what keeps domains apart: domain or channel"),
    Flag("--imex-ports", "IMEX_PORTS", DEFAULT_PORTS, "ports of IMEX on the nodes, FIRST-LAST"),
    Flag("--imex-certificates", "IMEX_CERTIFICATES", "true", "whether IMEX peers get certificates"),
    Flag("--rack-label", "RACK_LABEL", "", "label of Nodes that all nodes of a clique share; default: none"),
    Flag("--http-endpoint", "HTTP_ENDPOINT", "", "HOST:PORT for metrics and health; default: none"),
    Flag("--metrics-path", "METRICS_PATH", "/metrics", "path of the metrics; empty: no metrics"),
    Flag("--leader-election-enabled", "LEADER_ELECTION_ENABLED", "true", "whether replicas elect a leader"),
    Flag("--leader-election-lease-lock-namespace", "LEADER_ELECTION_LEASE_LOCK_NAMESPACE", "", "default: --namespace"),
    Flag("--leader-election-lease-lock-name", "LEADER_ELECTION_LEASE_LOCK_NAME", "nvdra-controller", "its name"),
    Flag("--leader-election-lease-duration", "LEADER_ELECTION_LEASE_DURATION", "15s", "when others may take it"),
    Flag("--leader-election-renew-deadline", "LEADER_ELECTION_RENEW_DEADLINE", "10s", "when the leader gives up"),
    Flag("--leader-election-retry-period", "LEADER_ELECTION_RETRY_PERIOD", "2s", "pace of renewing"),
    Flag("--feature-gates", "FEATURE_GATES", "", "A=true,B=false"),
    Flag("--log-verbosity", "LOG_VERBOSITY", "2", "0 to 7"),
    Flag("--log-format", "LOG_FORMAT", "text", "text or json"),
)  # fmt: skip
_BOOLS = {"true": True, "false": False, "1": True, "0": False}
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m)?")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, None: 1.0}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the controller; errors of settings and start become exit statuses."""
    try:
        values = read(argv, os.environ)
        log.configure(verbosity=_number(values, "--log-verbosity"), style=values["--log-format"])
        access = access_config(values, os.environ)
        chosen = settings(values, access.namespace)
        return run(chosen, access, os.environ.get("NOTIFY_SOCKET", ""))
    except ConfigError as error:
        print(f"nvdra-controller: {error}", file=sys.stderr)
        return EXIT_CONFIG
    except NvdraError as error:
        print(f"nvdra-controller: {error.reason}: {error}", file=sys.stderr)
        return EXIT_FAILED


def run(chosen: ControllerSettings, access: AccessConfig, notify_socket: str) -> int:
    """Run until SIGTERM; returns the exit status."""
    # Imported here so that --help and wrong settings are answered at once.
    from nvdra_cluster.app import Manager
    from nvdra_cluster.kube.client import KubernetesClient

    _LOG.info("starting", version=__version__, settings=chosen)
    clock = SystemClock()
    client = KubernetesClient(access, clock)
    try:
        controller = Manager(chosen, client, clock, Workers(clock))
        return controller.service(Notifier.connect(notify_socket)).run()
    finally:
        client.close()


def read(argv: Sequence[str] | None, environment: Mapping[str, str]) -> dict[str, str]:
    """The text of every flag: command line, else environment, else default."""
    parser = argparse.ArgumentParser(
        prog="nvdra-controller",
        description="ComputeDomains: slots, ports, templates, status, certificates",
        epilog="Each setting may also come from the environment, under the name in brackets.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    for flag in FLAGS:
        text = f"{flag.help} [{flag.env}; {flag.default or 'empty'}]"
        parser.add_argument(flag.name, dest=flag.name, metavar="VALUE", help=text)
    given = vars(parser.parse_args(argv))
    return {
        flag.name: given[flag.name]
        if given[flag.name] is not None
        else environment.get(flag.env, flag.default)
        for flag in FLAGS
    }


def settings(values: Mapping[str, str], own_namespace: str) -> ControllerSettings:
    """Convert the texts. Raises ConfigError."""
    namespace = values["--namespace"] or own_namespace
    if not namespace:
        raise ConfigError(
            "--namespace: not set, and not running in a pod; give the driver's namespace"
        )
    gates = FeatureGates.parse(values["--feature-gates"])
    gates.validate()
    mode = _choice(values, "--imex-mode", ImexMode)
    if mode is ImexMode.HOST_MANAGED and not gates.enabled(Gate.HOST_MANAGED_IMEX_DAEMON):
        raise ConfigError(
            "--imex-mode hostManaged needs the feature gate HostManagedIMEXDaemon=true"
        )
    return ControllerSettings(
        fabric=FabricSettings(
            mode=mode,
            isolation=_choice(values, "--imex-isolation", Isolation),
            slot_count=_number(values, "--max-nodes-per-imex-domain"),
            ports=PortRange.parse(values["--imex-ports"]),
            rack_label=values["--rack-label"],
            namespace=namespace,
        ),
        # Unique over restarts under the same name: the Lease of the previous process must expire.
        identity=f"{values['--pod-name'] or 'nvdra-controller'}-{secrets.token_hex(8)}",
        is_elected=_boolean(values, "--leader-election-enabled"),
        lease_name=values["--leader-election-lease-lock-name"],
        lease_namespace=values["--leader-election-lease-lock-namespace"] or namespace,
        lease_times=LeaseTimes(
            duration_s=_duration(values, "--leader-election-lease-duration"),
            renew_deadline_s=_duration(values, "--leader-election-renew-deadline"),
            retry_period_s=_duration(values, "--leader-election-retry-period"),
        ),
        issues_certificates=mode is ImexMode.DRIVER_MANAGED
        and _boolean(values, "--imex-certificates"),
        http_endpoint=values["--http-endpoint"],
        metrics_path=values["--metrics-path"],
    )


def access_config(values: Mapping[str, str], environment: Mapping[str, str]) -> AccessConfig:
    """How to reach the API server. Raises ConfigError."""
    # Imported here: the package takes 0.2 s, and --help and wrong settings are answered without.
    from nvdra_cluster.kube import config

    path = values["--kubeconfig"]
    return config.from_kubeconfig(path) if path else config.in_cluster(environment)


def _choice(values: Mapping[str, str], name: str, kind: type[ChoiceT]) -> ChoiceT:
    try:
        return kind(values[name])
    except ValueError:
        known = " or ".join(member.value for member in kind)
        raise ConfigError(f'{name} "{values[name]}": unknown; use {known}') from None


def _boolean(values: Mapping[str, str], name: str) -> bool:
    text = values[name].strip().lower()
    if text not in _BOOLS:
        raise ConfigError(f'{name} "{values[name]}": use true or false')
    return _BOOLS[text]


def _number(values: Mapping[str, str], name: str) -> int:
    text = values[name].strip()
    if not (text.isascii() and text.isdigit()):
        raise ConfigError(f'{name} "{values[name]}": expected a whole number')
    return int(text)


def _duration(values: Mapping[str, str], name: str) -> float:
    match = _DURATION.fullmatch(values[name].strip())
    if match is None:
        raise ConfigError(f'{name} "{values[name]}": expected a duration such as 15s')
    return float(match[1]) * _UNITS[match[2]]


if __name__ == "__main__":
    sys.exit(main())
