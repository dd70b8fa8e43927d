"""Identifies the systemd unit of the process at the other end of a unix socket.

SO_PEERCRED gives its pid, and the pid's cgroup the unit: systemd puts every process of a service there, and no process
can move there by itself. Root in a container has uid 0 as well, but another cgroup.

Pids are reused. A pidfd from SO_PEERPIDFD (Linux 6.5) proves that the cgroup was read while the caller lived. Before
6.5 the pidfd is opened by number, so a caller that ends at once and whose pid is reused at once is misidentified.
"""

from __future__ import annotations

import os
import select
import socket
import struct
from pathlib import Path

from nvdra_core.errors import UnitRequestError
from nvdra_node.broker.policy import PERMISSIONS

_SO_PEERPIDFD = 77
"""include/uapi/asm-generic/socket.h; Python has no name for it."""
_CREDENTIALS = struct.Struct("3i")
_PROC = Path("/proc")


def unit_of_peer(connection: socket.socket) -> str:
    """The caller's unit, if it has permissions. Raises UnitRequestError."""
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(data)
    if uid != 0 or pid <= 0:
        raise UnitRequestError(f"caller (pid {pid}, uid {uid}): not permitted; only root is")
    try:
        unit = _unit_of_process(connection, pid)
    except (OSError, ValueError) as error:
        raise UnitRequestError(f"caller (pid {pid}): its unit cannot be read: {error}") from error
    if unit not in PERMISSIONS:
        raise UnitRequestError(
            f"caller (pid {pid}, unit {unit!r}): not permitted; it is no unit of nvdra"
        )
    return unit


def _unit_of_process(connection: socket.socket, pid: int) -> str:
    """Raises OSError when the process has ended."""
    try:
        held = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
    except OSError:
        held = os.pidfd_open(pid)
    try:
        unit = unit_of(
            (_PROC / str(pid) / "cgroup").read_text(), (_PROC / "1" / "cgroup").read_text()
        )
        poll = select.poll()
        poll.register(held, select.POLLIN)
        if poll.poll(0):
            raise ProcessLookupError(None, "no such process")
        return unit
    finally:
        os.close(held)


def unit_of(cgroup: str, manager: str) -> str:
    """/proc/PID/cgroup of a process and of PID 1 -> name of the unit; empty: none. Pure.

    The first part of the path that is no slice, as in systemd's cg_path_get_unit: cgroups below it do not count. In a
    container with its own systemd, paths begin at the cgroup of PID 1.
    """
    top = _path(manager).removesuffix("/init.scope").rstrip("/")
    path = _path(cgroup)
    if path != top and not path.startswith(f"{top}/"):
        return ""
    parts = [part for part in path[len(top) :].split("/") if part]
    if ".." in parts:  # outside of this cgroup namespace
        return ""
    return next((part for part in parts if not part.endswith(".slice")), "")


def _path(text: str) -> str:
    """The path in systemd's hierarchy: name=systemd where that is mounted, else the unified one."""
    paths = {}
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        paths[controllers] = path
    return paths.get("name=systemd", paths.get("", "/"))
