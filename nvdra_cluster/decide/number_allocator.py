"""Allocates ports and channels: which domain has which, and which are within their reuse delay.

Derived from the status of all domains and the specs of nodes, and kept current so that a new domain needs no scan.
Numbers that were released recently are not reused, as some node may still run with them; nor are those of a domain
deleted by force while a node reports its claims (``control.reconciler`` releases them).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from nvdra_cluster.decide import assignments
from nvdra_cluster.settings import MAX_CHANNELS, FabricSettings
from nvdra_core.api import ComputeDomainAssignment, Isolation

NUMBER_REUSE_DELAY_S = 120.0


class NumberAllocator:
    """See the module. Not safe for several threads."""

    def __init__(self, settings: FabricSettings) -> None:
        self._settings = settings
        self._given: dict[str, ComputeDomainAssignment] = {}
        self._holder: dict[tuple[str, int], str] = {}
        self._reserved: dict[tuple[str, int], float] = {}
        self._suspended_until_s = -math.inf

    def of(self, domain_uid: str) -> ComputeDomainAssignment | None:
        """The domain's numbers."""
        return self._given.get(domain_uid)

    def adopt(
        self, domain_uid: str, recorded: Iterable[ComputeDomainAssignment], now_s: float
    ) -> None:
        """Take over an earlier process's assignment: the first of ``recorded`` that is neither taken nor within its
        reuse delay.
        """
        if domain_uid in self._given:
            return
        for assignment in recorded:
            key = _key(assignment)
            is_ours = assignment.isolation is self._settings.isolation
            if not is_ours or self._reserved.get(key, now_s) > now_s:
                continue
            if self._holder.setdefault(key, domain_uid) == domain_uid or _is_shared(key):
                self._given[domain_uid] = assignment
                return

    def ensure(
        self, domain_uid: str, now_s: float, channel_count: int = MAX_CHANNELS
    ) -> ComputeDomainAssignment | None:
        """The domain's numbers, allocated if necessary; None when none is free."""
        known = self._given.get(domain_uid)
        if known is not None:
            return known
        if self.problem(now_s):
            return None
        self._reserved = {key: until for key, until in self._reserved.items() if until > now_s}
        taken = self._holder.keys() | self._reserved.keys()
        chosen = assignments.choose(
            self._settings,
            ports={number for kind, number in taken if kind == "port"},
            channels={number for kind, number in taken if kind == "channel"},
            channel_count=channel_count,
        )
        if chosen is not None:
            self._given[domain_uid] = chosen
            self._holder.setdefault(_key(chosen), domain_uid)
        return chosen

    def suspend(self, now_s: float) -> None:
        """Allocate nothing for NUMBER_REUSE_DELAY_S, as the recently released numbers are unknown."""
        self._suspended_until_s = now_s + NUMBER_REUSE_DELAY_S

    def problem(self, now_s: float) -> str:
        """Why allocation is suspended; empty when it is not."""
        if now_s >= self._suspended_until_s:
            return ""
        return (
            "ports: the controller has just started and cannot read which ones were released recently; it allocates "
            f"again within {NUMBER_REUSE_DELAY_S:.0f} s. Its log names the ConfigMap"
        )

    def reserve(self, names: Iterable[str], now_s: float) -> None:
        """Start the reuse delay of numbers released by an earlier process, except those in use."""
        for text in names:
            kind, _, number = text.partition("-")
            key = (kind, int(number)) if number.isdecimal() else ("", 0)
            if kind in ("port", "channel") and key not in self._holder:
                self._reserved[key] = now_s + NUMBER_REUSE_DELAY_S

    def release(self, domain_uid: str, now_s: float) -> None:
        """Release the number of a deleted domain; its reuse delay starts."""
        assignment = self._given.pop(domain_uid, None)
        if assignment is None:
            return
        key = _key(assignment)
        if self._holder.get(key) == domain_uid:
            del self._holder[key]
            self._reserved[key] = now_s + NUMBER_REUSE_DELAY_S


def name_of(assignment: ComputeDomainAssignment) -> str:
    """The number as text, e.g. ``port-24001``; empty for one shared by all domains."""
    key = _key(assignment)
    return "" if _is_shared(key) else "{}-{}".format(*key)


def _key(assignment: ComputeDomainAssignment) -> tuple[str, int]:
    """The number that belongs to one domain alone."""
    if assignment.isolation is Isolation.CHANNEL:
        return ("channel", assignment.channel)
    return ("port", assignment.port)


def _is_shared(key: tuple[str, int]) -> bool:
    """Port 0: the IMEX of the host, which all domains share."""
    return key == ("port", 0)
