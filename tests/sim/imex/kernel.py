"""The simulated kernel: one IMEX session per host, and the effects of its abrupt end."""

from __future__ import annotations

import fcntl
import json
import os
import time
from pathlib import Path
from typing import Any

FABRIC_CAPABILITY = "proc/driver/nvidia/capabilities/fabric-imex-mgmt"
RECORD_BYTES = 512
"""Constant size, so that a concurrent reader never sees a part."""
PROBE_S = 0.5
"""Far longer than ``state`` holds the lock."""


class SessionInUseError(Exception):
    """Another process has the session."""


def has_fabric(root: Path) -> bool:
    """Whether the driver has the capability."""
    return (root / FABRIC_CAPABILITY).exists()


def may_open(root: Path) -> bool:
    """Whether the capability's node is there and this process may open it."""
    for line in (root / FABRIC_CAPABILITY).read_text().splitlines():
        key, _, value = line.partition(":")
        if key == "DeviceFileMinor":
            return (root / f"dev/nvidia-caps/nvidia-cap{value.strip()}").exists()
    return False


class Session:
    """The session of one host. Held until `close` or until the process dies."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1

    def open(self) -> bool:
        """Begin; whether the one before ended abruptly. Raises SessionInUseError."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        ends_s = time.monotonic() + PROBE_S
        while not _lock(self._fd, fcntl.LOCK_EX):
            if time.monotonic() > ends_s:
                os.close(self._fd)
                raise SessionInUseError
            time.sleep(0.005)
        before = self.read()
        is_abrupt = bool(before.get("open"))
        # A new session enables allocations at once, whatever importers elsewhere still hold.
        self._write(
            {
                "open": True,
                "sessions": before.get("sessions", 0) + 1,
                "abrupt": before.get("abrupt", 0) + is_abrupt,
                "pid": os.getpid(),
            }
        )
        return is_abrupt

    def close(self) -> None:
        """A graceful end."""
        self._write({**self.read(), "open": False, "pid": 0})
        os.close(self._fd)

    def read(self) -> dict[str, Any]:
        size = os.fstat(self._fd).st_size
        return json.loads(os.pread(self._fd, size, 0)) if size else {}

    def _write(self, values: dict[str, Any]) -> None:
        os.pwrite(self._fd, json.dumps(values).encode().ljust(RECORD_BYTES), 0)


def _lock(fd: int, kind: int) -> bool:
    """Whether it could be locked at once."""
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def state(root: Path, session: str) -> dict[str, Any]:
    """The session now; `allocations` is False from an abrupt end to the next session."""
    path = root / session
    values: dict[str, Any] = {}
    is_held = False
    if path.exists():
        fd = os.open(path, os.O_RDWR)
        try:
            values = json.loads(os.pread(fd, RECORD_BYTES, 0) or b"{}")
            is_held = not _lock(fd, fcntl.LOCK_SH)
        finally:
            os.close(fd)
    return {**values, "held": is_held, "allocations": is_held or not values.get("open", False)}
