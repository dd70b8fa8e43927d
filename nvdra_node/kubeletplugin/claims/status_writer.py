"""Writes ``status.devices`` of prepared claims, with a Ready condition (KEP-4817).

Informational: written after the kubelet has its reply, by a thread, from a bounded queue in which a newer status of a
claim replaces the older. While the API server forbids it the queue is kept and tried once in ten minutes. Entries are
merged by server-side apply under this driver's own field manager; the API server removes entries of devices that a
claim no longer has.

The API server answers 422 to an apply for a claim whose opaque parameters are not sorted by name: it sorts them and
sees another allocation. Then the status is read, merged here, and patched.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec

from nvdra_core.errors import ApiError
from nvdra_core.kube.resources import WriteOptions
from nvdra_core.kube.retry import Backoff
from nvdra_core.runtime import log
from nvdra_core.runtime.clock import Clock, Deadline
from nvdra_node.checkpoint.claim import ClaimRef
from nvdra_node.checkpoint.model import PreparedDevice
from nvdra_node.kube.permission import RETEST_S, Permission, is_missing_right
from nvdra_node.kubeletplugin.claims.outbox import Outbox

JsonObject = dict[str, Any]
WRITE_S = 10.0
MAX_TRIES = 3
CONFLICT = 409
INVALID = 422
HOPELESS = frozenset({400, 404, CONFLICT, INVALID})
"""The claim was deleted or replaced, or the status is invalid: not tried again."""

_LOG = log.get(__name__)


class StatusApi(Protocol):
    """The part of ``nvdra_node.kube.dra.DraApi`` that is needed."""

    def apply_claim_status(
        self, body: JsonObject, *, options: WriteOptions, deadline: Deadline | None = None
    ) -> JsonObject:
        """Server-side apply of ``status.devices``. Raises ApiError."""

    def get_claim(
        self, namespace: str, name: str, *, deadline: Deadline | None = None
    ) -> JsonObject:
        """A ResourceClaim. Raises ApiError."""

    def patch_claim_status(
        self, body: JsonObject, *, options: WriteOptions, deadline: Deadline | None = None
    ) -> JsonObject:
        """JSON merge patch. Raises ApiError, 409 when the claim has changed since its resourceVersion."""


class _StatusUpdate(msgspec.Struct, frozen=True):
    """A status to write."""

    ref: ClaimRef
    devices: tuple[PreparedDevice, ...]
    at_s: float
    tries: int = 0


class ClaimStatusWriter:
    """Queues and writes statuses. ``app`` starts and stops ``outbox``."""

    def __init__(self, api: StatusApi, driver: str, clock: Clock) -> None:
        self._api = api
        self._driver = driver
        self._clock = clock
        self._options = WriteOptions(field_manager=f"nvdra-{driver}", force=True)
        self._backoff = Backoff(first_s=0.5, limit_s=10.0)
        self._permission = Permission(clock)
        self._is_enabled = True
        self._failures = 0
        self.outbox = Outbox("claim-status", self._write_update, clock)

    @property
    def is_on(self) -> bool:
        """False while the API server forbids it, or disabled."""
        return self._is_enabled and self._permission.is_granted

    @property
    def lost(self) -> int:
        """Statuses dropped because the queue was full or the last try failed."""
        return self._failures + self.outbox.dropped

    def disable(self) -> None:
        """Write nothing, ever."""
        self._is_enabled = False

    def prepared(self, ref: ClaimRef, devices: Sequence[PreparedDevice]) -> None:
        """A claim's devices are ready: queue its status. Returns at once; never raises."""
        if self._is_enabled and devices:
            self.outbox.put(ref.uid, _StatusUpdate(ref, tuple(devices), self._clock.wall()))

    def forget(self, ref: ClaimRef) -> None:
        """The claim was unprepared: drop its queued status."""
        self.outbox.discard(ref.uid)

    def _write_update(self, uid: str, update: _StatusUpdate) -> float:
        if pause_s := self._permission.retry_in_s:
            self.outbox.put(uid, update, is_retry=True)
            return pause_s
        try:
            body = to_status(update.ref, update.devices, driver=self._driver, at_s=update.at_s)
            self._write(body, Deadline(WRITE_S, self._clock))
        except ApiError as error:
            return self._failed(update, error)
        self._permission.succeeded()
        return 0.0

    def _write(self, body: JsonObject, limit: Deadline) -> None:
        try:
            self._api.apply_claim_status(body, options=self._options, deadline=limit)
        except ApiError as error:
            if error.status != INVALID:
                raise
            self._patch(body, error, limit)

    def _patch(self, body: JsonObject, refusal: ApiError, limit: Deadline) -> None:
        """Merge and patch (see the module). Raises ``refusal`` for another claim of the same name."""
        options = WriteOptions(field_manager=self._options.field_manager)
        ref = body["metadata"]
        for left in reversed(range(MAX_TRIES)):
            claim = self._api.get_claim(ref["namespace"], ref["name"], deadline=limit)
            if claim["metadata"].get("uid") != ref["uid"]:
                raise refusal
            patch = to_patch(claim, body, driver=self._driver)
            try:
                self._api.patch_claim_status(patch, options=options, deadline=limit)
                return
            except ApiError as error:
                if error.status != CONFLICT or not left:
                    raise

    def _failed(self, update: _StatusUpdate, error: ApiError) -> float:
        is_forbidden = self._permission.failed(error)
        if pause_s := self._permission.retry_in_s:
            if is_missing_right(error):  # of all claims, not of this one
                self.outbox.put(update.ref.uid, update, is_retry=True)
            _LOG.warning("API server forbids statuses of claims; pausing", error, pause_s=RETEST_S)
            return pause_s
        if is_forbidden or error.status in HOPELESS or update.tries + 1 >= MAX_TRIES:
            self._failures += 1
            _LOG.info("status of claim not written", v=2, claim=update.ref, error=error)
            return 0.0
        retry = _StatusUpdate(update.ref, update.devices, update.at_s, update.tries + 1)
        self.outbox.put(update.ref.uid, retry, is_retry=True)
        return max(self._backoff.pause_s(update.tries), error.retry_after_s or 0.0)


def to_status(
    ref: ClaimRef, devices: Sequence[PreparedDevice], *, driver: str, at_s: float
) -> JsonObject:
    """The object to apply. Pure. The UID makes it fail on a claim of the same name that came later."""
    entries = {
        (device.pool, device.device, device.share_id): _entry(device, driver, at_s)
        for device in devices
    }
    return {
        "metadata": {"namespace": ref.namespace, "name": ref.name, "uid": ref.uid},
        "status": {"devices": list(entries.values())},
    }


def to_patch(claim: JsonObject, body: JsonObject, *, driver: str) -> JsonObject:
    """The merge patch that does to ``claim`` what applying ``body`` should. Pure. Only for the state that was read."""
    entries = (claim.get("status") or {}).get("devices") or ()
    theirs = [entry for entry in entries if entry.get("driver") != driver]
    version = claim["metadata"]["resourceVersion"]
    return {
        "metadata": {**body["metadata"], "resourceVersion": version},
        "status": {"devices": [*theirs, *body["status"]["devices"]]},
    }


def _entry(device: PreparedDevice, driver: str, at_s: float) -> JsonObject:
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at_s))
    entry: JsonObject = {
        "driver": driver,
        "pool": device.pool,
        "device": device.device,
        "conditions": [
            {
                "type": "Ready",
                "status": "True",
                "reason": "Prepared",
                "message": "",
                "lastTransitionTime": when,
            }
        ],
        "data": _data(device),
    }
    if device.share_id is not None:
        entry["shareID"] = device.share_id
    return entry


def _data(device: PreparedDevice) -> Mapping[str, Any]:
    """The device's details and CDI names."""
    details = {key: value for key, value in device.details.items() if value is not None}
    return {**details, "kind": device.kind, "cdiDeviceIDs": list(device.cdi_ids)}
