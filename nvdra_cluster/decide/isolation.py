"""What keeps domains apart now: as it is set, or as it was while a domain of that time lives. Pure.

A domain's IMEX runs with the port or channel that it was given, and a node's one IMEX serves domains of one kind.
So another setting waits until the last domain of the old one is gone; new domains join the old kind until then.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from nvdra_cluster.decide.domain import events
from nvdra_cluster.decide.model import DomainView
from nvdra_cluster.decide.writes import Create
from nvdra_cluster.settings import FabricSettings, ImexMode
from nvdra_core.api import ComputeDomainAssignment

REASON = "IsolationKept"
TOLD = 10
"""Domains that get an event about it."""


def in_force(wanted: FabricSettings, recorded: Iterable[ComputeDomainAssignment]) -> FabricSettings:
    """The settings to decide by, given what living domains and nodes were told."""
    # Port 0 is the IMEX of the host, which knows of no isolation.
    found = {one.isolation for one in recorded if one.port}
    if wanted.mode is ImexMode.HOST_MANAGED or not found or wanted.isolation in found:
        return wanted
    return replace(wanted, isolation=found.pop())


def message(wanted: FabricSettings, kept: FabricSettings) -> str:
    """What an administrator must know and do."""
    return (
        f"the controller is set to isolation={wanted.isolation.value}, and goes on with "
        f"isolation={kept.isolation.value}, as there are ComputeDomains that were made with it: "
        "delete all of them, or set it back"
    )


def events_for(domains: Sequence[DomainView], text: str, now: str) -> list[Create]:
    """An event for some of the domains that keep the old isolation."""
    return [events.warning(domain, REASON, text, now) for domain in domains[:TOLD]]
