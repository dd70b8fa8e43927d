"""Leader election by a Lease (coordination.k8s.io), with client-go's algorithm.

A Lease has expired when it did not change for its duration by this machine's clock; others' clocks do not count.
``is_leading`` becomes false before another replica can take the Lease, also when the API is unreachable; the process
then ends, so a leader always starts with empty state. On shutdown the Lease is released after the last response.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from nvdra_cluster.settings import ControllerSettings
from nvdra_core.errors import ApiError, NvdraError
from nvdra_core.kube.client import ResourceClient
from nvdra_core.kube.resources import LEASES, JsonObject
from nvdra_core.runtime import log
from nvdra_core.runtime.clock import Clock, Deadline

_LOG = log.get(__name__)


class LeadershipLostError(NvdraError):
    """Another replica may lead by now; this process must restart."""


@dataclass(slots=True)
class _Seen:
    """The last observed change of the Lease, and when it was seen."""

    record: tuple[str, str] = ("", "")
    at_s: float = 0.0


@dataclass(slots=True)
class LeaderElector:
    """See the module. ``run`` in a thread of its own."""

    client: ResourceClient
    settings: ControllerSettings
    clock: Clock
    stopping: threading.Event
    idle: threading.Event = field(default_factory=threading.Event)
    """Set by the owner after the last write as leader."""
    _renewed_at_s: float | None = None
    _seen: _Seen = field(default_factory=_Seen)

    def is_leading(self) -> bool:
        """Whether this replica may write now."""
        return self.leads_for_s() > 0.0

    def leads_for_s(self) -> float:
        """Seconds until leadership ends unless the Lease is renewed; 0 when not leading."""
        renewed_at_s = self._renewed_at_s
        if renewed_at_s is None:
            return 0.0
        ends_s = renewed_at_s + self.settings.lease_times.renew_deadline_s
        return max(0.0, ends_s - self.clock.monotonic())

    def run(self, elected: Callable[[], None]) -> None:
        """Acquire the Lease, call ``elected``, renew it until ``stopping``, then release it. Raises
        LeadershipLostError when it could not be renewed.
        """
        was_leading = False
        while not self.stopping.is_set():
            self._try()
            if self.is_leading() and not was_leading:
                was_leading = True
                _LOG.info("leading", identity=self.settings.identity)
                elected()
            elif was_leading and not self.is_leading():
                raise LeadershipLostError(
                    f"the Lease {self.settings.lease_namespace}/{self.settings.lease_name} was not renewed "
                    f"within {self.settings.lease_times.renew_deadline_s:g} s; restarting"
                )
            self.clock.wait(self.stopping, self.settings.lease_times.retry_period_s)
        if was_leading and self.idle.wait(self.settings.lease_times.renew_deadline_s):
            self._release()

    def _try(self) -> None:
        # From before the request: the server may store the renewal right then.
        began_s = self.clock.monotonic()
        try:
            if self._acquire(Deadline(self.settings.lease_times.renew_deadline_s / 2, self.clock)):
                self._renewed_at_s = began_s
        except ApiError as error:
            _LOG.warning("cannot renew the Lease; retrying", error)

    def _acquire(self, deadline: Deadline) -> bool:
        settings = self.settings
        try:
            lease = self.client.get(
                LEASES, settings.lease_name, namespace=settings.lease_namespace, deadline=deadline
            )
        except ApiError as error:
            if error.status != 404:
                raise
            self._send(self.client.create, self._body({}, None), deadline)
            return True
        spec = lease.get("spec") or {}
        holder = str(spec.get("holderIdentity") or "")
        if holder not in ("", settings.identity) and not self._has_expired(spec, holder):
            if self._renewed_at_s is not None:
                self._renewed_at_s = None  # another replica took it; do not use the remaining time
            return False
        return self._send(self.client.update, self._body(spec, lease["metadata"]), deadline)

    def _has_expired(self, spec: JsonObject, holder: str) -> bool:
        record = (holder, str(spec.get("renewTime")))
        now_s = self.clock.monotonic()
        if self._seen.record != record:
            self._seen = _Seen(record, now_s)
        return now_s - self._seen.at_s > float(spec.get("leaseDurationSeconds") or 0)

    def _send(self, call: Callable[..., JsonObject], body: JsonObject, deadline: Deadline) -> bool:
        try:
            call(LEASES, body, deadline=deadline)
        except ApiError as error:
            if error.status == 409:
                return False  # another replica was faster
            raise
        return True

    def _body(self, spec: JsonObject, metadata: JsonObject | None) -> JsonObject:
        settings, now = self.settings, micro_time(self.clock.wall())
        is_ours = spec.get("holderIdentity") == settings.identity
        changes = int(spec.get("leaseTransitions") or 0)
        named = {"name": settings.lease_name, "namespace": settings.lease_namespace}
        return {
            "apiVersion": LEASES.api_version,
            "kind": "Lease",
            "metadata": metadata or named,
            "spec": {
                "holderIdentity": settings.identity,
                "leaseDurationSeconds": max(1, round(settings.lease_times.duration_s)),
                "acquireTime": spec.get("acquireTime") if is_ours else now,
                "renewTime": now,
                "leaseTransitions": changes if is_ours or metadata is None else changes + 1,
            },
        }

    def _release(self) -> None:
        """Let the next leader start at once. Best effort: the Lease expires anyway."""
        self._renewed_at_s = None
        settings = self.settings
        deadline = Deadline(2.0, self.clock)
        try:
            lease = self.client.get(
                LEASES, settings.lease_name, namespace=settings.lease_namespace, deadline=deadline
            )
            if (lease.get("spec") or {}).get("holderIdentity") == settings.identity:
                lease["spec"] |= {"holderIdentity": "", "leaseDurationSeconds": 1}
                self.client.update(LEASES, lease, deadline=deadline)
                _LOG.info("released the Lease")
        except ApiError as error:
            _LOG.warning("cannot release the Lease; it expires by itself", error)


def micro_time(wall_s: float) -> str:
    """RFC 3339 with microseconds, as a Lease requires."""
    whole = int(wall_s)
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))
    return f"{text}.{int((wall_s - whole) * 1e6):06}Z"
