"""Removes what ended claims left behind. One thread, run by ``app`` at start and then periodically.

A record whose claim was deleted or replaced is unprepared: after a grace time in which the kubelet may do it, at once
if it is from an earlier boot. Without a reply of the API nothing is concluded. Our CDI files without a record are
removed after the same grace time (a prepare may be about to write the record), unless a damaged record of the claim is
in quarantine. Effects that could not be undone when their claims ended are undone here, too.
"""

from __future__ import annotations

import threading

import msgspec

from nvdra_core.errors import NvdraError
from nvdra_core.runtime import log
from nvdra_core.runtime.clock import Clock, Deadline
from nvdra_node.checkpoint.claim import ClaimRef, ClaimUID
from nvdra_node.checkpoint.model import Record
from nvdra_node.kubeletplugin.claims.dependencies import Dependencies
from nvdra_node.kubeletplugin.claims.reader import UnnamedClaimError, why_stale
from nvdra_node.kubeletplugin.claims.transaction import Transaction

_LOG = log.get(__name__)


class SweepTimes(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds."""

    period_s: float = 600.0
    grace_s: float = 300.0
    read_s: float = 20.0
    """For reading one claim."""
    undo_s: float = 45.0
    """For unpreparing one claim."""
    settle_s: float = 60.0
    """Between tries to undo what an ended claim left on a device, and for one such try."""

    @classmethod
    def every(cls, period_s: float) -> SweepTimes:
        """Sweeps with this period; a short one shortens the grace time as well, or it would have no effect."""
        return cls(period_s=period_s, grace_s=min(cls().grace_s, period_s / 2))


class Sweeper:
    """Finds and removes leftovers."""

    def __init__(
        self, transaction: Transaction, deps: Dependencies, times: SweepTimes | None = None
    ) -> None:
        self._transaction = transaction
        self._deps = deps
        self._times = times or SweepTimes()
        self._clock: Clock = deps.clock
        self._stale_since: dict[str, float] = {}
        """Monotonic seconds, by leftover."""
        self.removed = 0
        """Claims and files removed since start, for metrics."""

    def run(self, stopping: threading.Event) -> None:
        """Sweep until ``stopping`` is set. Never raises NvdraError."""
        while not self._clock.wait(stopping, self.run_once()):
            pass

    def run_once(self) -> float:
        """One sweep. Returns the seconds until the next one is due."""
        seen: set[str] = set()
        records = self._deps.records
        for record in (*records.all(), *records.all_newer()):
            if self._deps.stopping.is_set():
                break
            self._sweep_claim(record, seen)
        try:
            self._sweep_files(seen)
        except NvdraError as error:
            _LOG.warning("cannot list CDI files", error)
        self._stale_since = {key: at for key, at in self._stale_since.items() if key in seen}
        if not self._settle():
            return min(self._times.period_s, self._times.settle_s)
        # Leftovers in their grace time are checked again at its end.
        return min(self._times.period_s, self._times.grace_s) if seen else self._times.period_s

    def _settle(self) -> bool:
        try:
            return self._transaction.settle(self._times.settle_s)
        except NvdraError as error:
            _LOG.warning("effects of ended claims not undone", error)
            return False

    def _sweep_claim(self, record: Record, seen: set[str]) -> None:
        ref, key = record.ref, f"claim {record.uid}"
        try:
            stale = why_stale(self._deps.claims, ref, Deadline(self._times.read_s, self._clock))
        except NvdraError as error:
            _LOG.info("cannot check whether the claim exists", v=2, claim=ref, error=str(error))
            seen.update({key} & self._stale_since.keys())
            return
        if stale is None:
            return
        needs_grace = record.boot_id == self._deps.boot_id or isinstance(stale, UnnamedClaimError)
        if not needs_grace or self._is_due(key, seen):
            self._unprepare(ref)

    def _unprepare(self, ref: ClaimRef) -> None:
        try:
            why = self._transaction.unprepare_stale(ref, Deadline(self._times.undo_s, self._clock))
        except NvdraError as error:
            _LOG.warning("cannot unprepare a stale claim", error, claim=ref)
            return
        if why is None:
            return
        self.removed += 1
        _LOG.info("stale claim unprepared", claim=ref, why=str(why))

    def _sweep_files(self, seen: set[str]) -> None:
        records = self._deps.records
        for uid in self._deps.specs.uids():
            # A pod whose record is in quarantine may run, and its containers restart with this file.
            if records.get(uid) is not None or records.is_quarantined(uid):
                continue
            if not self._is_due(f"file {uid}", seen):
                continue
            deadline = Deadline(self._times.undo_s, self._clock)
            if self._transaction.remove_stray_file(ClaimUID(uid), deadline):
                self.removed += 1
                _LOG.info("CDI file without a record removed", uid=uid)

    def _is_due(self, key: str, seen: set[str]) -> bool:
        """Whether a leftover has existed for the grace time; until then it is added to ``seen``."""
        now_s = self._clock.monotonic()
        if now_s - self._stale_since.setdefault(key, now_s) >= self._times.grace_s:
            return True
        seen.add(key)
        return False
