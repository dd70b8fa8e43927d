"""Monitors this host's address for IMEX peers. One thread; run by ``app``.

The network may come up after the service, the Node may be registered later, and an address may be removed while
nvidia-imex runs: the host's addresses are read every 5 s until one is usable, then every 30 s. The Node is read only if
they do not suffice, with backoff to 60 s.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import msgspec

from nvdra_core.errors import NvdraError
from nvdra_core.runtime import log
from nvdra_core.runtime.clock import Clock
from nvdra_node.host.network import Network, Route
from nvdra_node.imex.model import HostAddresses
from nvdra_node.imex.sources import address
from nvdra_node.imex.sources.address import Choice, Facts

_LOG = log.get(__name__)

MISSING_S = 5.0
STEADY_S = 30.0
MAX_NODE_PAUSE_S = 60.0


class AddressSources(msgspec.Struct, frozen=True, kw_only=True):
    """Sources of the facts."""

    configured: str
    network: Callable[[], Network]
    route: Callable[[], Route]
    read_node: Callable[[], dict[str, Any]]
    """This host's Node object. Raises NvdraError."""


class AddressMonitor:
    """See the module."""

    def __init__(
        self, sources: AddressSources, clock: Clock, take: Callable[[HostAddresses], None]
    ) -> None:
        """``take`` gets each new choice."""
        self._sources = sources
        self._clock = clock
        self._take = take
        self._found = HostAddresses()
        self._node: tuple[str, ...] | None = None
        self._node_problem = ""
        self._node_at_s = float("-inf")
        self._node_pause_s = MISSING_S

    def run(self, stopping: threading.Event) -> None:
        """Scan until ``stopping``."""
        while not stopping.is_set():
            self._clock.wait(stopping, self.scan())

    def scan(self, *, may_query_api: bool = True) -> float:
        """One scan; the seconds until the next. ``may_query_api``: whether the Node may be read."""
        network = self._sources.network()
        choice = self._choose(network)
        if choice.needs_node and may_query_api:
            self._read_node()
            choice = self._choose(network)
        elif not choice.address:
            self._forget_node()
        is_kept = bool(choice.address) and choice.address == self._found.chosen
        self._set(
            HostAddresses(
                chosen=choice.address,
                message=self._found.message if is_kept else choice.message,
                present=tuple(one.address for one in network.addresses),
            )
        )
        return STEADY_S if choice.address else MISSING_S

    def _choose(self, network: Network) -> Choice:
        sources = self._sources
        facts = Facts(
            configured=sources.configured,
            network=network,
            route=Route() if sources.configured else sources.route(),
            node=self._node,
            node_problem=self._node_problem,
            current=self._found.chosen,
        )
        return address.choose(facts)

    def _read_node(self) -> None:
        """Read the Node's addresses, with backoff."""
        now_s = self._clock.monotonic()
        if now_s - self._node_at_s < self._node_pause_s:
            return
        if self._node_at_s > float("-inf"):
            self._node_pause_s = min(2 * self._node_pause_s, MAX_NODE_PAUSE_S)
        self._node_at_s = now_s
        try:
            self._node = tuple(address.internal_ips(self._sources.read_node()))
        except NvdraError as error:
            self._node_problem = f"the Node cannot be read ({error})"

    def _forget_node(self) -> None:
        """Its addresses did not help: read it again after the backoff."""
        if self._clock.monotonic() - self._node_at_s >= self._node_pause_s:
            self._node = None

    def _set(self, found: HostAddresses) -> None:
        if (found.chosen, found.message) != (self._found.chosen, self._found.message):
            if found.chosen:
                _LOG.info("address for IMEX peers", address=found.chosen, why=found.message)
            else:
                _LOG.warning("no address for IMEX peers", why=found.message)
        if found != self._found:
            self._found = found
            self._take(found)
