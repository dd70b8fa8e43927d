"""Which port and channel a ComputeDomain has: once, for its life, and nobody else's. Pure.

With isolation ``domain`` each has its own port (a peer of another domain that was left over cannot
talk to it) and channel 0. With ``channel`` all share the clique's port and each has its own channel;
0 stays free, because drivers may create that node open to everybody.
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
    """How many channels domains are given: as many as most nodes with fabric report, of two numbers that are
    reported equally often the higher one.

    Not the lowest: it would be for any one node to say that there are none. A node with fewer than the others is
    not ready for a domain whose channel it lacks, and says why (``readiness``).
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

    ``ports`` and ``channels``: those of living domains, and of dead ones that are cooling.
    ``channel_count``: see ``channel_limit``.
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
        return "every IMEX channel is taken by another ComputeDomain; delete one that is not used"
    ports = settings.ports
    return (
        f"every port from {ports.first + 1} to {ports.last} is taken by another ComputeDomain; "
        "delete one that is not used, or give the controller more ports"
    )
