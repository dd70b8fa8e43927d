"""Chooses the port and channel of a ComputeDomain, which it keeps for life and shares with no other. Pure.

With isolation ``domain`` each domain has its own port, so a leftover peer of another domain cannot connect, and channel
0. With ``channel`` all share the clique's port and each has its own channel; channel 0 stays free, because drivers may
create its device node with access for everyone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable

from nvdra_cluster.decide.model import FabricView
from nvdra_cluster.settings import MAX_CHANNELS, FabricSettings, ImexMode
from nvdra_core.api import ComputeDomainAssignment, FabricState, Isolation

SHARED_CHANNEL = 0


def lowest_free(first: int, last: int, taken: Collection[int]) -> int | None:
    """The lowest number from ``first`` to ``last`` that is not ``taken``."""
    return next((number for number in range(first, last + 1) if number not in taken), None)


def channel_limit(nodes: Iterable[FabricView]) -> int:
    """Number of channels to allocate from: the one most nodes with fabric report, the higher one of a tie.

    Not the lowest, which would let one node deny channels to all. A node with fewer channels is not ready for a domain
    whose channel it lacks (``readiness``).
    """
    counts = Counter(
        view.status.channel_count
        for view in nodes
        if view.status.fabric_state is FabricState.COMPLETED
        and view.status.clique_id
        and view.status.channel_count > SHARED_CHANNEL + 1
    )
    return max(counts, key=lambda count: (counts[count], count), default=MAX_CHANNELS)


def choose(
    settings: FabricSettings,
    *,
    ports: Collection[int],
    channels: Collection[int],
    channel_count: int = MAX_CHANNELS,
) -> ComputeDomainAssignment | None:
    """Numbers for a new domain; None when there are none left.

    ``ports`` and ``channels``: those in use or within their reuse delay. ``channel_count``: see ``channel_limit``.
    """
    if settings.mode is ImexMode.HOST_MANAGED:
        return ComputeDomainAssignment(isolation=Isolation.DOMAIN, port=0, channel=SHARED_CHANNEL)
    if settings.isolation is Isolation.CHANNEL:
        channel = lowest_free(SHARED_CHANNEL + 1, channel_count - 1, channels)
        if channel is None:
            return None
        return ComputeDomainAssignment(
            isolation=Isolation.CHANNEL, port=settings.ports.first, channel=channel
        )
    port = lowest_free(settings.ports.first + 1, settings.ports.last, ports)
    if port is None:
        return None
    return ComputeDomainAssignment(isolation=Isolation.DOMAIN, port=port, channel=SHARED_CHANNEL)


def exhausted(settings: FabricSettings) -> str:
    """Why ``choose`` found nothing, and what to do."""
    if settings.isolation is Isolation.CHANNEL:
        return "every IMEX channel is taken by another ComputeDomain; delete an unused one"
    ports = settings.ports
    return (
        f"every port from {ports.first + 1} to {ports.last} is taken by another ComputeDomain; "
        "delete an unused one, or give the controller more ports"
    )
