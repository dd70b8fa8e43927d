"""Inputs of the simulated programs: NVIDIA's configuration file, and a file of settings and faults."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

DEFAULTS = {
    "LOG_LEVEL": "4", "LOG_FILE_NAME": "/var/log/nvidia-imex.log", "LOG_APPEND_TO_LOG": "1",
    "LOG_FILE_MAX_SIZE": "1024", "LOG_MAX_ROTATE_COUNT": "5", "LOG_USE_SYSLOG": "0", "DAEMONIZE": "1",
    "STATS_FILE_NAME": "/var/log/nvidia-imex-stats.log", "BIND_INTERFACE_IP": "", "SERVER_PORT": "50000",
    "IMEX_NODE_CONFIG_FILE": "/etc/nvidia-imex/nodes_config.cfg", "NETWORK_INTERFACE": "",
    "IMEX_WAIT_FOR_QUORUM": "RECOVERY", "IMEX_ENABLE_AUTH_ENCRYPTION": "0",
    "IMEX_AUTH_ENCRYPTION_MODE": "SSL_TLS", "IMEX_AUTH_SOURCE": "", "IMEX_SERVER_KEY": "",
    "IMEX_SERVER_CERT": "", "IMEX_SERVER_CERT_AUTH": "", "IMEX_CLIENT_KEY": "", "IMEX_CLIENT_CERT": "",
    "IMEX_CLIENT_CERT_AUTH": "", "IMEX_SECURITY_TARGET_OVERRIDE": "", "IMEX_GSS_SERVICE_NAME": "host",
    "IMEX_GSS_TIMEOUT_SEC": "30", "IMEX_GSS_RETRY_INTERVAL_SEC": "5",
    "IMEX_GSS_SEC_CONTEXT_LIFETIME_SEC": "-1", "IMEX_GSS_SHUTDOWN_ON_FAILURE": "0",
    "IMEX_CMD_ENABLED": "0", "IMEX_CMD_BIND_INTERFACE_IP": "127.0.0.1", "IMEX_CMD_PORT": "50005",
    "IMEX_CMD_UNIX_DOMAIN_PATH": "", "IMEX_NODE_DISCONNECTED_GRACE_TIME": "-1",
}  # fmt: skip
"""Every key that the real program knows."""

CONTROL = "run/nvsim/imex.json"
SESSION = "run/nvsim/imex-session.json"


class WrongSettingsError(Exception):
    """The configuration cannot be used; the text says why."""


def parse(text: str) -> dict[str, str]:
    """KEY=VALUE lines over the defaults; `#` begins a comment. Raises WrongSettingsError on a key that does not exist."""
    found = dict(DEFAULTS)
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        key, equals, value = line.partition("=")
        if not equals or key.strip() not in DEFAULTS:
            raise WrongSettingsError(f"line {number}: unknown option {line!r}")
        found[key.strip()] = value.strip()
    if found["IMEX_WAIT_FOR_QUORUM"] not in ("NONE", "RECOVERY", "FULL"):
        raise WrongSettingsError(f"IMEX_WAIT_FOR_QUORUM={found['IMEX_WAIT_FOR_QUORUM']}")
    return found


def read_nodes(path: str) -> list[str]:
    """The node list; the line number is the node's id."""
    try:
        text = Path(path).read_text()
    except OSError as error:
        raise WrongSettingsError(f"cannot read nodes config {path}: {error.strerror}") from error
    nodes = [line.strip() for line in text.splitlines()]
    nodes = [node for node in nodes if node and not node.startswith("#")]
    if not nodes:
        raise WrongSettingsError(f"nodes config {path} is empty")
    return nodes


def root() -> Path:
    """The driver root of this program, which is in ROOT/usr/bin."""
    return Path(sys.argv[0]).absolute().parents[2]


@dataclass
class Control:
    """Settings and faults, read for each use."""

    path: Path

    def get(self, name: str, default: object = None) -> object:
        """One setting or fault."""
        try:
            values = json.loads(self.path.read_text())
        except (OSError, ValueError):
            return default
        return values.get(name, default) if isinstance(values, dict) else default

    def text(self, name: str, default: str) -> str:
        return str(self.get(name, default))

    def reached_at(self, address: str) -> str:
        """The loopback address that stands for an address of the simulated network. `loopback_network`: the prefixes of
        both."""
        network = self.get("loopback_network")
        if isinstance(network, list) and address.startswith(str(network[0])):
            return str(network[1]) + address.removeprefix(str(network[0]))
        return address

    def seconds(self, real_s: float) -> float:
        """A time of the real program, scaled."""
        return real_s * float(str(self.get("time_scale", 1.0)))
