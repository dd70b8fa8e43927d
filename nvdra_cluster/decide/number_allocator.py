"""The book of ports and channels: which domain has which, and which are cooling. Owned by ``control.state.cache``.

The truth is in the status of the domains; this is what follows from all of them, kept up to date so
that a new domain costs no look at the others. Numbers that were free only a short time ago are not
given out: some node may still run with them. Nor are those of a domain that was forced away, as long as
a node reports claims of it: ``control.reconciler`` says when the last has gone.
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
        """What the domain has."""
        return self._given.get(domain_uid)

    def adopt(
        self, domain_uid: str, recorded: Iterable[ComputeDomainAssignment], now_s: float
    ) -> None:
        """Take over what was given to the domain before this process began: the first of ``recorded``
        that nobody else has, and that does not cool.
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
        """What the domain has, after giving it something if there is any; None when all is taken."""
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
        """Give out nothing new for NUMBER_REUSE_DELAY_S: which numbers cool is not known."""
        self._suspended_until_s = now_s + NUMBER_REUSE_DELAY_S

    def problem(self, now_s: float) -> str:
        """Why nothing new is given out at all; empty when it is."""
        if now_s >= self._suspended_until_s:
            return ""
        return (
            "the controller has just started and cannot read which ports were released lately; it gives one out "
            f"within {NUMBER_REUSE_DELAY_S:.0f} s. Its log names the ConfigMap"
        )

    def reserve(self, names: Iterable[str], now_s: float) -> None:
        """Let numbers cool that an earlier process released, but for those that domains have."""
        for text in names:
            kind, _, number = text.partition("-")
            key = (kind, int(number)) if number.isdecimal() else ("", 0)
            if kind in ("port", "channel") and key not in self._holder:
                self._reserved[key] = now_s + NUMBER_REUSE_DELAY_S

    def release(self, domain_uid: str, now_s: float) -> None:
        """The domain is gone; its number cools for NUMBER_REUSE_DELAY_S."""
        assignment = self._given.pop(domain_uid, None)
        if assignment is None:
            return
        key = _key(assignment)
        if self._holder.get(key) == domain_uid:
            del self._holder[key]
            self._reserved[key] = now_s + NUMBER_REUSE_DELAY_S


def name_of(assignment: ComputeDomainAssignment) -> str:
    """The domain's number as a text, such as ``port-24001``; empty for one that all domains share."""
    key = _key(assignment)
    return "" if _is_shared(key) else "{}-{}".format(*key)


def _key(assignment: ComputeDomainAssignment) -> tuple[str, int]:
    """What makes the domain's number its own."""
    if assignment.isolation is Isolation.CHANNEL:
        return ("channel", assignment.channel)
    return ("port", assignment.port)


def _is_shared(key: tuple[str, int]) -> bool:
    """Port 0: the IMEX of the host, which all domains share."""
    return key == ("port", 0)
