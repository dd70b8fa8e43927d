"""The isolation in force: the setting, or the previous one while a domain that uses it exists. Pure.

A domain keeps its port or channel, and a node's one IMEX serves domains of one kind. So a changed setting waits until
the last domain of the old kind is deleted; new domains use the old kind until then.
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
EVENT_LIMIT = 10
"""Domains that get an event about it."""


def in_force(wanted: FabricSettings, recorded: Iterable[ComputeDomainAssignment]) -> FabricSettings:
    """The settings to apply, given the assignments in domains and node specs."""
    # Port 0 is the IMEX of the host, which has no isolation.
    found = {one.isolation for one in recorded if one.port}
    if wanted.mode is ImexMode.HOST_MANAGED or not found or wanted.isolation in found:
        return wanted
    return replace(wanted, isolation=found.pop())


def message(wanted: FabricSettings, kept: FabricSettings) -> str:
    """Message for administrators."""
    return (
        f"isolation={wanted.isolation.value} is not applied: ComputeDomains with "
        f"isolation={kept.isolation.value} exist; delete all of them, or set it back"
    )


def events_for(domains: Sequence[DomainView], text: str, now: str) -> list[Create]:
    """An event for some of the domains that keep the old isolation."""
    return [events.warning(domain, REASON, text, now) for domain in domains[:EVENT_LIMIT]]
