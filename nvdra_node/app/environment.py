"""What systemd passes to a process in its environment. Read once by ``cli``."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

import msgspec

from nvdra_core.runtime import log, systemd


class SystemdEnvironment(msgspec.Struct, frozen=True, kw_only=True):
    """Empty values: not started by systemd."""

    notify_socket: str = ""
    watchdog_interval_s: float | None = None
    is_journal: bool = False
    listen_fds: int = 0
    """Sockets passed by a .socket unit, from file descriptor 3 on."""

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> SystemdEnvironment:
        """Raises ConfigError for a malformed watchdog time."""
        count, is_own = (
            environment.get("LISTEN_FDS", ""),
            _is_own(environment.get("LISTEN_PID", "")),
        )
        return cls(
            notify_socket=environment.get("NOTIFY_SOCKET", ""),
            watchdog_interval_s=systemd.watchdog_interval_s(
                environment.get("WATCHDOG_USEC", ""),
                environment.get("WATCHDOG_PID", ""),
                os.getpid(),
            ),
            is_journal=log.is_journal(environment.get("JOURNAL_STREAM", ""), sys.stderr.fileno()),
            listen_fds=int(count) if is_own and count.isascii() and count.isdigit() else 0,
        )


def _is_own(pid: str) -> bool:
    """Whether a variable for one process (LISTEN_PID) is for this one."""
    return pid == str(os.getpid())
