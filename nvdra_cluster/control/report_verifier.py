"""Verifies node reports that no watched claim confirms, by reading their claims from the API. One thread of its own.

A claim created by hand has no domain label, so no watch sees it. A compromised node can report anything at any rate, so
each node has a read budget, a pass has a limit, reports that hold a deletion come first, and refuted reports are
verified again with backoff. Nothing else waits for this thread.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from nvdra_cluster.control.state import decode
from nvdra_cluster.control.state.cache import Cache, Key, Kind
from nvdra_cluster.control.state.rate_limit import TokenBucket
from nvdra_cluster.control.state.report_state import Pair
from nvdra_cluster.decide.domain import readiness
from nvdra_cluster.decide.domain.reports import UNCONFIRMED_HOLD_S
from nvdra_core.api import FabricClaim
from nvdra_core.errors import ApiError
from nvdra_core.kube.client import ResourceClient
from nvdra_core.kube.resources import CLAIMS
from nvdra_core.kube.retry import Backoff
from nvdra_core.runtime import log
from nvdra_core.runtime.clock import Clock, Deadline

_LOG = log.get(__name__)
READ_TIMEOUT_S = 3.0
PASS_LIMIT = 100
"""Reads in one pass."""
CASE_LIMIT = 8
"""Claims of one report that are read before it is refuted; a single one can confirm it."""
NODE_BURST = 32
NODE_READS_PER_S = 2.0
"""For one node: a report that a deletion waits for is refuted within four seconds."""
POLL_S = 1.0
API_PAUSE_S = 5.0
"""After a read that failed."""
UNREAD_PAUSE_S = 15.0
"""Additional pause of that report: its claim may be the one that cannot be read."""


@dataclass(slots=True)
class _Case:
    """One report under verification."""

    claims: tuple[FabricClaim, ...] = ()
    """As reported."""
    read: set[FabricClaim] = field(default_factory=set)
    """Those that did not confirm it; kept when the claims change, as a report that changes all the time would never be
    refuted.
    """
    refusals: int = 0
    retry_at_s: float = 0.0


@dataclass(slots=True)
class _Records:
    """What the verifier remembers."""

    cases: dict[Pair, _Case] = field(default_factory=dict)
    buckets: dict[str, TokenBucket] = field(default_factory=dict)


class ReportVerifier:
    """See the module. ``run`` in a thread of its own."""

    def __init__(self, cache: Cache, client: ResourceClient, clock: Clock) -> None:
        self._cache = cache
        self._client = client
        self._clock = clock
        self._records = _Records()
        self._backoff = Backoff(first_s=30.0, limit_s=UNCONFIRMED_HOLD_S)
        self._pause_until_s = 0.0
        self._wake = threading.Event()

    def run(self, stopping: threading.Event) -> None:
        """Verify until ``stopping``."""
        while not stopping.is_set():
            self.verify_pending()
            self._clock.wait(self._wake, POLL_S)
            self._wake.clear()

    def wake(self) -> None:
        """Start the next pass now."""
        self._wake.set()

    def is_idle(self) -> bool:
        """Whether no report is due."""
        return not self._due(self._clock.monotonic())

    def requeue_refuted(self) -> None:
        """Verify refuted reports again: a claim may have been allocated after the report."""
        with self._cache.lock:
            for pair in self._cache.report_states.refuted:
                self._cache.report_states.request(pair, is_urgent=False)

    def verify_pending(self) -> None:
        """One pass."""
        reads = 0
        now_s = self._clock.monotonic()
        for pair in self._due(now_s):
            if reads >= PASS_LIMIT or now_s < self._pause_until_s:
                return
            reads += self._verify(pair, PASS_LIMIT - reads)
        self._forget_old()

    def _due(self, now_s: float) -> list[Pair]:
        """Reports that are due; those that hold a deletion come first."""
        with self._cache.lock:
            report_states = self._cache.report_states
            pending = sorted(
                report_states.pending, key=lambda pair: not report_states.pending[pair]
            )
            cases = self._records.cases
            return [
                pair
                for pair in pending
                if pair not in cases
                or cases[pair].retry_at_s <= now_s
                or cases[pair].claims != self._claims(pair)
            ]

    def _claims(self, pair: Pair) -> tuple[FabricClaim, ...]:
        """The claims that may confirm a report: those in the domain's namespace, if the domain exists. Claims without a
        name are ignored: reading one would list the namespace.
        """
        name, uid = pair
        domain = self._cache.domains.get(uid)
        report = readiness.report_of(self._cache.fabrics.get(name), uid)
        claims = report.claims if report is not None else ()
        named = (c for c in claims if c.namespace and c.name and c.uid)
        return tuple(c for c in named if domain is None or c.namespace == domain.namespace)

    def _verify(self, pair: Pair, limit: int) -> int:
        """Read claims of one report until one confirms it, CASE_LIMIT were read, or the budget is spent; returns the
        number of reads.
        """
        with self._cache.lock:
            claims = self._claims(pair)
        case = self._records.cases.setdefault(pair, _Case())
        case.claims = claims
        reads = 0
        for claim in claims:
            if claim in case.read or len(case.read) >= CASE_LIMIT:
                continue
            if reads >= limit or not self._bucket(pair[0]).take(self._clock.monotonic()):
                return reads
            reads += 1
            try:
                is_true = self._confirms(claim, *pair)
            except ApiError as error:
                _LOG.info("cannot read reported claim", v=2, node=pair[0], error=error)
                self._pause_until_s = self._clock.monotonic() + API_PAUSE_S
                case.retry_at_s = self._pause_until_s + UNREAD_PAUSE_S  # other reports come first
                return PASS_LIMIT
            if is_true:
                self._settle(pair, case, is_true=True)
                return reads
            case.read.add(claim)
        self._settle(pair, case, is_true=False)
        return reads

    def _bucket(self, name: str) -> TokenBucket:
        new = TokenBucket(NODE_BURST, NODE_READS_PER_S, NODE_BURST, self._clock.monotonic())
        return self._records.buckets.setdefault(name, new)

    def _confirms(self, claim: FabricClaim, name: str, uid: str) -> bool:
        deadline = Deadline(READ_TIMEOUT_S, self._clock)
        try:
            obj = self._client.get(CLAIMS, claim.name, namespace=claim.namespace, deadline=deadline)
        except ApiError as error:
            if error.status in (400, 404, 422):  # also for an invalid name
                return False
            raise
        view = decode.claim(obj)
        return view.uid == claim.uid and view.node == name and decode.claimed_domain(obj) == uid

    def _settle(self, pair: Pair, case: _Case, *, is_true: bool) -> None:
        name, uid = pair
        now_s = self._clock.monotonic()
        case.read.clear()
        case.refusals = 0 if is_true else case.refusals + 1
        case.retry_at_s = now_s + self._backoff.pause_s(max(0, case.refusals - 1))
        with self._cache.lock:
            report_states = self._cache.report_states
            if report_states.pending.pop(pair, None) is None:
                return  # no longer reported
            if is_true:
                report_states.confirm(pair)
            else:
                report_states.refute(pair, now_s)
                _LOG.warning("node report not confirmed by any claim", node=name, domain=uid)
            self._cache.enqueue(Key(Kind.DOMAIN, uid), self._cache.home_key(name))

    def _forget_old(self) -> None:
        """Drop records of reports that no longer exist."""
        with self._cache.lock:
            fabrics, report_states = self._cache.fabrics, self._cache.report_states
            known = (
                report_states.pending.keys()
                | report_states.confirmed
                | report_states.refuted.keys()
            )
            records = self._records
            records.cases = {pair: case for pair, case in records.cases.items() if pair in known}
            records.buckets = {n: one for n, one in records.buckets.items() if n in fabrics}
