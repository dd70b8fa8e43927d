"""sd_notify(3) messages of a unit of ``Type=notify-reload``, and the watchdog interval.

``cli`` reads NOTIFY_SOCKET and WATCHDOG_USEC and passes them in.
"""

from __future__ import annotations

from collections.abc import Callable

import sdnotify

from nvdra_core.errors import ConfigError
from nvdra_core.runtime import log

_LOG = log.get(__name__)
_SEND_TIMEOUT_S = 1.0
_MAX_STATUS = 200

Send = Callable[[str], None]


class Notifier:
    """Sends the service's state to systemd. Failures to send are logged: systemd acts on missing messages."""

    def __init__(self, send: Send | None) -> None:
        self._send = send

    @classmethod
    def connect(cls, notify_socket: str) -> Notifier:
        """A notifier for $NOTIFY_SOCKET, which sdnotify reads itself; empty: sends nothing.

        Raises ConfigError when the socket does not exist.
        """
        if not notify_socket:
            return cls(None)
        try:
            connection = sdnotify.SystemdNotifier(debug=True)
        except OSError as error:
            raise ConfigError(
                f"NOTIFY_SOCKET {notify_socket}: {error.strerror}; run under systemd or unset it"
            ) from error
        connection.socket.settimeout(_SEND_TIMEOUT_S)
        return cls(connection.notify)

    def ready(self, status: str) -> None:
        """Report the end of the start or of a reload."""
        self._notify("READY=1", status)

    def status(self, status: str) -> None:
        """Report one line for ``systemctl status``."""
        self._notify("", status)

    def reloading(self, monotonic_s: float) -> None:
        """Report the begin of a reload; ``ready`` ends it."""
        self._notify(f"RELOADING=1\nMONOTONIC_USEC={int(monotonic_s * 1e6)}", "reloading")

    def stopping(self, status: str) -> None:
        """Report the begin of a stop."""
        self._notify("STOPPING=1", status)

    def watchdog(self) -> None:
        """Report a passed self-check."""
        self._notify("WATCHDOG=1", "")

    def _notify(self, state: str, status: str) -> None:
        if self._send is None:
            return
        line = " ".join(status.split()).encode("ascii", "backslashreplace").decode()[:_MAX_STATUS]
        message = "\n".join(part for part in (state, line and f"STATUS={line}") if part)
        try:
            self._send(message)
        except OSError as error:
            _LOG.warning("cannot notify systemd", error, state=message)


def watchdog_interval_s(watchdog_usec: str, watchdog_pid: str, own_pid: int) -> float | None:
    """Seconds between self-checks: a third of $WATCHDOG_USEC, so that one late check is harmless.

    None without a watchdog for this process. Raises ConfigError for a malformed value.
    """
    if not watchdog_usec or (watchdog_pid and watchdog_pid != str(own_pid)):
        return None
    if not (watchdog_usec.isascii() and watchdog_usec.isdigit() and int(watchdog_usec) > 0):
        raise ConfigError(f'WATCHDOG_USEC "{watchdog_usec}": expected microseconds above 0')
    return int(watchdog_usec) / 3e6
