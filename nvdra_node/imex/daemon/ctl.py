"""Client of nvidia-imex-ctl: the daemon's state and its view of the domain. Called by ``control`` and ``peer_monitor``.

Each query is a process with a deadline, as ``-N`` hangs on dead peers. An answer that is not exactly one of the known
states is UNAVAILABLE.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import msgspec

from nvdra_core.api.fabric import FabricPeer, ImexState, PeerProblem
from nvdra_core.errors import HostError
from nvdra_core.runtime import log
from nvdra_core.runtime.clock import Deadline
from nvdra_node.host.ports import Commands
from nvdra_node.imex.model import Run

_LOG = log.get(__name__)

_STATES = {state.value: state for state in ImexState if state.value}
_VERSION = re.compile(r"\b\d+\.\d+(?:\.\d+)*\b")
_CONNECTED = "CONNECTED"
MAX_VERSION = 64
MAX_QUOTED = 80


class ImexDomainStatus(msgspec.Struct, frozen=True):
    """A daemon's view of its IMEX domain."""

    own: int | None
    """The node id that the daemon uses; None: unknown."""
    connected: frozenset[int]
    """Ids of connected peers."""
    version: str = ""
    missing: frozenset[int] = frozenset()
    """Peers without a connection for ``LASTING_S`` (``peer_monitor``)."""
    problems: tuple[FabricPeer, ...] = ()
    """Peers without a connection that the answer names, by slot."""
    is_unknown: bool = False
    """Several queries in a row failed."""


class CtlClient(Protocol):
    """Queries about the daemon."""

    def state(self, deadline: Deadline) -> ImexState:
        """The daemon's state; UNAVAILABLE without an answer. Never raises."""

    def last_error(self) -> str:
        """Why the last ``state`` got no answer; empty: it got one."""

    def domain(self, run: Run, deadline: Deadline) -> ImexDomainStatus | None:
        """Its view of the domain of ``run``; None without an answer. Never raises."""

    def version(self, deadline: Deadline) -> str:
        """Version of the installed nvidia-imex; empty: unknown. Never raises."""


class ImexCtl:
    """See CtlClient."""

    def __init__(
        self, commands: Commands, ctl: Path, imex: Path, config: Path | None, socket: Path
    ) -> None:
        """``config``: the daemon's, needed for ``domain``; None: the host's own daemon, only queried for its state."""
        self._commands = commands
        self._ctl = str(ctl)
        self._imex = str(imex)
        self._config = config
        self._socket = str(socket)
        self._problem = ""

    def state(self, deadline: Deadline) -> ImexState:
        """See CtlClient."""
        try:
            result = self._commands.run([self._ctl, "-u", self._socket, "-q"], deadline)
        except HostError as error:
            _LOG.info("nvidia-imex-ctl -q failed", v=4, error=str(error))
            self._problem = str(error)
            return ImexState.UNAVAILABLE
        state, text = parse_state(result.stdout), result.stdout.strip()
        is_odd = state is ImexState.UNAVAILABLE and text != state.value
        self._problem = f"nvidia-imex-ctl -q wrote {text[:MAX_QUOTED]!r}" if is_odd else ""
        return state

    def last_error(self) -> str:
        """See CtlClient."""
        return self._problem

    def domain(self, run: Run, deadline: Deadline) -> ImexDomainStatus | None:
        """See CtlClient."""
        if self._config is None:
            return None
        argv = [self._ctl, "-u", self._socket, "-c", str(self._config), "-N", "-j"]
        try:
            return parse_domain(json.loads(self._commands.run(argv, deadline).stdout), run)
        except (HostError, ValueError, TypeError, AttributeError) as error:
            _LOG.info("nvidia-imex-ctl -N failed", v=2, error=str(error))
            return None

    def version(self, deadline: Deadline) -> str:
        """See CtlClient."""
        try:
            found = _VERSION.search(self._commands.run([self._imex, "--version"], deadline).stdout)
        except HostError as error:
            _LOG.warning("cannot read the version of nvidia-imex", error)
            return ""
        return found[0] if found else ""


def parse_state(text: str) -> ImexState:
    """Output of ``-q``: one known state and a newline; STOPPED is only ours. Pure."""
    state = _STATES.get(text.rstrip("\n"), ImexState.UNAVAILABLE)
    return ImexState.UNAVAILABLE if state is ImexState.STOPPED else state


def parse_domain(body: Mapping[str, Any], run: Run) -> ImexDomainStatus:
    """Output of ``-N -j`` -> view. Pure. Raises TypeError, ValueError or AttributeError for another shape."""
    nodes: Mapping[str, Mapping[str, Any]] = body.get("nodes", {})
    ids = {
        int(number)
        for number, node in nodes.items()
        if _is_same(str(node.get("host")), run.address)
        and node.get("status") != ImexState.UNAVAILABLE.value
    }
    own = run.slot if run.slot in ids or not ids else min(ids)
    node = nodes.get(str(own), {})
    others = {
        int(number): str(connection.get("status"))
        for number, connection in (node.get("connections") or {}).items()
        if int(number) != own
    }
    problems = tuple(
        FabricPeer(
            slot=slot,
            problem=parse_problem(status).value,
            version=_version(nodes.get(str(slot), {})),
        )
        for slot, status in sorted(others.items())
        if status != _CONNECTED
    )
    return ImexDomainStatus(
        own=own if ids else None,
        connected=frozenset(slot for slot, status in others.items() if status == _CONNECTED),
        version=_version(node),
        problems=problems,
    )


def _is_same(host: str, address: str) -> bool:
    """Whether both are the same address; IPv6 has several spellings, also in brackets."""
    try:
        return ipaddress.ip_address(host.strip("[]")) == ipaddress.ip_address(address)
    except ValueError:
        return host == address


def _version(node: Mapping[str, Any]) -> str:
    return str(node.get("version") or "")[:MAX_VERSION]


def parse_problem(status: str) -> PeerProblem:
    """A connection's status in ``-N -j`` -> problem.

    NVIDIA documents "version mismatch" and "node map mismatch", but not their spelling in JSON.
    """
    letters = "".join(letter for letter in status.upper() if letter.isalpha())
    if "MISMATCH" in letters and "VERSION" in letters:
        return PeerProblem.VERSION_MISMATCH
    if "MISMATCH" in letters and "MAP" in letters:
        return PeerProblem.NODE_MAP_MISMATCH
    return PeerProblem.UNREACHABLE
