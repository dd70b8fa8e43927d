"""Tidies up after claims that nobody will unprepare. Run by ``app`` at start and then from time to time.

A record, started or completed, whose claim is gone from the API or was replaced is unprepared. The kubelet gets its
chance first: a claim must have been seen gone for a grace time, unless the record is from an earlier boot, of which
nothing can be running. When the API does not answer, nothing is concluded. CDI files of ours without a record are
removed after the same grace (a prepare may be about to write the record), unless a damaged record of the claim was put
aside. Files of others are never touched. What ended claims left on devices that did not answer is undone here, too.
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
from nvdra_node.kubeletplugin.claims.stale import UnnamedClaimError, why_gone
from nvdra_node.kubeletplugin.claims.transaction import Transaction

_log = log.get(__name__)


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
        """Sweeps so far apart; a shorter period shortens the grace time, or it would change nothing."""
        return cls(period_s=period_s, grace_s=min(cls().grace_s, period_s / 2))


class Sweeper:
    """Finds and removes leftovers. One thread runs it."""

    def __init__(
        self, transaction: Transaction, deps: Dependencies, times: SweepTimes | None = None
    ) -> None:
        self._transaction = transaction
        self._deps = deps
        self._times = times or SweepTimes()
        self._clock: Clock = deps.clock
        self._gone_since: dict[str, float] = {}
        self.removed = 0
        """Claims and files removed since start, for metrics."""

    def run(self, stopping: threading.Event) -> None:
        """Sweep until ``stopping`` is set. Returns; never raises NvdraError."""
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
            _log.warning("cannot look for leftover CDI files", error)
        self._gone_since = {key: at for key, at in self._gone_since.items() if key in seen}
        if not self._settle():
            return min(self._times.period_s, self._times.settle_s)
        # Whatever is in its grace time is looked at again when that is over.
        return min(self._times.period_s, self._times.grace_s) if seen else self._times.period_s

    def _settle(self) -> bool:
        try:
            return self._transaction.settle(self._times.settle_s)
        except NvdraError as error:
            _log.warning("effects of ended claims not undone", error)
            return False

    def _sweep_claim(self, record: Record, seen: set[str]) -> None:
        ref = ClaimRef(record.namespace, record.name, ClaimUID(record.uid))
        try:
            gone = why_gone(self._deps.claims, ref, Deadline(self._times.read_s, self._clock))
        except NvdraError as error:
            _log.info("cannot tell whether the claim is gone", v=2, claim=ref, error=str(error))
            seen.update({f"claim {ref.uid}"} & self._gone_since.keys())
            return
        if gone is None:
            return
        needs_grace = record.boot_id == self._deps.boot_id or isinstance(gone, UnnamedClaimError)
        if not needs_grace or self._is_due(f"claim {ref.uid}", seen):
            self._unprepare(ref)

    def _unprepare(self, ref: ClaimRef) -> None:
        try:
            why = self._transaction.unprepare_gone(ref, Deadline(self._times.undo_s, self._clock))
        except NvdraError as error:
            _log.warning("cannot unprepare a claim that is gone", error, claim=ref)
            return
        if why is None:
            return
        self.removed += 1
        _log.info("unprepared a claim that is gone", claim=ref, why=str(why))

    def _sweep_files(self, seen: set[str]) -> None:
        for uid in self._deps.specs.uids():
            records = self._deps.records
            # A pod whose record was damaged may run, and its containers start again with this file.
            if records.get(uid) is not None or records.is_put_aside(uid):
                continue
            if not self._is_due(f"file {uid}", seen):
                continue
            deadline = Deadline(self._times.undo_s, self._clock)
            if self._transaction.remove_stray_file(ClaimUID(uid), deadline):
                self.removed += 1
                _log.info("removed a CDI file without a record", uid=uid)

    def _is_due(self, key: str, seen: set[str]) -> bool:
        """Whether ``key`` has been a leftover for the grace time; it is remembered until it no longer is."""
        now_s = self._clock.monotonic()
        if now_s - self._gone_since.setdefault(key, now_s) >= self._times.grace_s:
            return True
        seen.add(key)
        return False
