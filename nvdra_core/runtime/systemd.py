"""What a unit of ``Type=notify-reload`` tells systemd (sd_notify(3)), and what systemd asks of it.

``cli`` reads NOTIFY_SOCKET and WATCHDOG_USEC and passes them in. The protocol is the sdnotify
package's; importing it costs nothing worth measuring (0.2 ms).
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
    """Says how the service fares. A message that cannot be sent is logged: systemd acts on its
    absence.
    """

    def __init__(self, send: Send | None) -> None:
        self._send = send

    @classmethod
    def connect(cls, notify_socket: str) -> Notifier:
        """A notifier for $NOTIFY_SOCKET, which the package reads itself; silent when it is empty
        (no systemd).

        Raises ConfigError when the socket is not there.
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
        """Started, or reloaded."""
        self._tell("READY=1", status)

    def status(self, status: str) -> None:
        """One line for ``systemctl status``."""
        self._tell("", status)

    def reloading(self, monotonic_s: float) -> None:
        """A reload begins; ``ready`` ends it."""
        self._tell(f"RELOADING=1\nMONOTONIC_USEC={int(monotonic_s * 1e6)}", "reloading")

    def stopping(self, status: str) -> None:
        """An orderly stop begins."""
        self._tell("STOPPING=1", status)

    def watchdog(self) -> None:
        """The self-check found nothing wrong."""
        self._tell("WATCHDOG=1", "")

    def _tell(self, state: str, status: str) -> None:
        if self._send is None:
            return
        line = " ".join(status.split()).encode("ascii", "backslashreplace").decode()[:_MAX_STATUS]
        message = "\n".join(part for part in (state, line and f"STATUS={line}") if part)
        try:
            self._send(message)
        except OSError as error:
            _LOG.warning("cannot notify systemd", error, state=message)


def watchdog_interval_s(watchdog_usec: str, watchdog_pid: str, own_pid: int) -> float | None:
    """How often to run the self-check: a third of $WATCHDOG_USEC, so that one late check does no
    harm.

    None when systemd does not watch this process. Raises ConfigError on text that is no number.
    """
    if not watchdog_usec or (watchdog_pid and watchdog_pid != str(own_pid)):
        return None
    if not (watchdog_usec.isascii() and watchdog_usec.isdigit() and int(watchdog_usec) > 0):
        raise ConfigError(f'WATCHDOG_USEC "{watchdog_usec}": expected microseconds above 0')
    return int(watchdog_usec) / 3e6
