"""The unit broker's process: serves the socket that systemd passes to it. Called by ``cli``.

A restart loses nothing: systemd keeps the socket, callers retry, and jobs in progress continue in systemd.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

from nvdra_core.errors import ConfigError, HostError
from nvdra_core.runtime import log
from nvdra_core.runtime.clock import Deadline, SystemClock
from nvdra_core.runtime.service import FunctionComponent, Service
from nvdra_core.runtime.systemd import Notifier
from nvdra_core.runtime.workers import Workers
from nvdra_node import config
from nvdra_node.app.environment import SystemdEnvironment
from nvdra_node.broker.caller import unit_of_peer
from nvdra_node.broker.server import Identify, Server
from nvdra_node.host.commands import SystemCommands
from nvdra_node.host.systemctl import SystemctlUnits
from nvdra_node.host.units import BrokerUnits

_LOG = log.get(__name__)

FIRST_FD = 3
"""SD_LISTEN_FDS_START of sd_listen_fds(3)."""
BACKLOG = 16
SELF_CHECK_S = 5.0


def run(
    settings: config.NodeConfig, system: SystemdEnvironment, identify: Identify = unit_of_peer
) -> int:
    """Run until stopped; returns the exit status. Raises ConfigError before anything is started."""
    log.configure(
        verbosity=settings.verbosity, style=settings.log_format, journal=system.is_journal
    )
    path, clock, commands = settings.unit_broker_socket, SystemClock(), SystemCommands()
    workers = Workers(clock)
    units = SystemctlUnits(commands, settings.systemctl_path)
    server = Server(listener(path, system.listen_fds), units, identify, clock)

    def begin() -> None:
        workers.spawn("accept", lambda: server.run(workers.stopping))

    def end(deadline: Deadline) -> None:
        server.close()
        commands.close()

    def problems() -> list[str]:
        try:
            BrokerUnits(path, clock).ping(Deadline(SELF_CHECK_S, clock))
        except HostError as error:
            return [str(error)]
        return []

    service = Service(
        components=[FunctionComponent(name="socket", begin=begin, end=end)],
        workers=workers,
        clock=clock,
        notifier=Notifier.connect(system.notify_socket),
        self_check=problems,
        watchdog_interval_s=system.watchdog_interval_s,
    )
    return service.run()


def listener(path: Path, given: int) -> socket.socket:
    """The socket of nvdra-unit-broker.socket, or, without systemd, a new one at ``path``. Raises ConfigError."""
    if given > 1:
        raise ConfigError(f"LISTEN_FDS {given}: expected 1; one ListenStream= is served")
    try:
        if given:
            os.set_inheritable(FIRST_FD, False)
            return socket.socket(fileno=FIRST_FD)
        made = socket.socket(socket.AF_UNIX)
        path.unlink(missing_ok=True)
        before = os.umask(0o177)
        try:
            made.bind(str(path))
        finally:
            os.umask(before)
        made.listen(BACKLOG)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be served: {error.strerror}") from error
    return made
