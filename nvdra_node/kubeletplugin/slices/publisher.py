"""Publishes the driver's pool as ResourceSlices and keeps them so, against foreign changes and deletions.

Attempts are triggered by the driver, by the kubelet's registration, by a watch and by a periodic audit. Runs in one
thread; failures are logged, counted and retried, and never end it. The result is a ``PublishStatus``.

A device is never published without what makes it safe: a taint that keeps claims from an unhealthy GPU, counters that
keep overlapping partitions apart. Whether the API server keeps such fields is tested by a dry run first; if it does
not, those devices are left out. So is a device that the server refuses, which must not hide the others. Both are
retested periodically, again by a dry run.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Protocol

import msgspec
from msgspec.structs import replace

from nvdra_core.errors import ApiError, NvdraError
from nvdra_core.runtime import log
from nvdra_core.runtime.clock import Clock, Deadline
from nvdra_node.kubeletplugin.driver import Pool, PoolSource
from nvdra_node.kubeletplugin.slices import diff, layout
from nvdra_node.kubeletplugin.slices.client import SliceClient
from nvdra_node.kubeletplugin.slices.device_set import DeviceSet, refused_devices
from nvdra_node.kubeletplugin.slices.layout import JsonObject, Part, PoolError
from nvdra_node.kubeletplugin.slices.schedule import PublishSchedule
from nvdra_node.kubeletplugin.slices.watch import SliceWatch

PREFETCH_S = 5.0
ATTEMPT_S = 20.0
LISTING_S = 2.0
"""How long to wait for the initial state of a new watch, before the slices are listed."""
RETEST_S = 600.0
"""Between requests that retest what was dropped or refused: gates change and control planes are upgraded."""
MAX_ROUNDS = 16
"""Restarts of one attempt: each time the server refused or dropped something."""

_LOG = log.get(__name__)


class PublishMetrics(Protocol):
    """Where attempts are counted (``kubeletplugin.metrics``)."""

    def publish(self) -> AbstractContextManager[None]:
        """Counts an attempt that calls the API server, with its outcome; exceptions pass through."""


class PublishStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What is published, for health and metrics. Times are wall clock, 0: never."""

    is_published: bool = False
    """The last attempt succeeded: the pool is stored, less ``left_out``."""
    generation: int = 0
    slices: int = 0
    devices: int = 0
    succeeded_at_s: float = 0.0
    error: str = ""
    left_out: Mapping[str, str] = msgspec.field(default_factory=dict)
    """Devices that cannot be published, and the reasons."""
    dropped: frozenset[str] = frozenset()
    """Feature gates that the pool needs and the API server lacks."""


class Publisher:
    """See the module."""

    def __init__(
        self,
        source: PoolSource,
        node: str,
        slices: SliceClient,
        metrics: PublishMetrics,
        clock: Clock,
    ) -> None:
        self._source = source
        self._slices = slices
        self._metrics = metrics
        self._clock = clock
        self._schedule = PublishSchedule(clock)
        self._wake = threading.Event()
        self._is_stopped = False
        self._target = diff.Target(driver=source.name, node=node, node_uid="")
        self._devices = DeviceSet()
        self._published: tuple[Part, ...] | None = None
        self._version: tuple[int, int] | None = None
        self._retest_at = math.inf
        self._own_versions: deque[str] = deque(maxlen=256)
        self._watch = SliceWatch(slices, clock, self._wake.set)
        self._status = PublishStatus()

    # Triggers: do not block, from any thread.

    def changed(self) -> None:
        """The pool may have changed."""
        self._schedule.changed()
        self._wake.set()

    def registered(self) -> None:
        """The kubelet registered the plugin: audit the slices now, and again in half a minute."""
        self._schedule.registered()
        self._wake.set()

    def published(self) -> PublishStatus:
        """The current status."""
        return self._status

    @property
    def has_listing(self) -> bool:
        """Whether the watch has the stored slices, unchanged since: the first write needs no list."""
        return self._watch.has_listing()

    def has_devices(self) -> bool:
        """Whether the watch found slices with devices, before the first attempt."""
        return self._watch.has_devices()

    def stop(self) -> None:
        """End ``run``; the slices stay."""
        self._is_stopped = True
        self._watch.stop()
        self._wake.set()

    # The thread.

    def prefetch(self) -> None:
        """Read the Node and the stored slices before the registration. The first attempt retries what fails here."""
        self._watch.start()  # concurrently, on its own connection
        try:
            self._identify(Deadline(PREFETCH_S, self._clock))
        except NvdraError as error:
            _LOG.info("Node not read yet", v=2, error=str(error))

    def run(self) -> None:
        """Publish until ``stop``."""
        while not self._is_stopped:
            self._wake.clear()
            self._take_events()
            if self._schedule.due_in_s() <= 0.0:
                self.attempt()
            if not self._is_stopped:
                self._clock.wait(self._wake, self._schedule.due_in_s())
        self._watch.join()

    def attempt(self) -> None:
        """Publish the pool once, or schedule a retry. Never raises NvdraError."""
        is_audit = self._schedule.begin()
        deadline = Deadline(ATTEMPT_S, self._clock)
        with log.operation():
            try:
                wrote = self._publish(deadline, is_audit=is_audit)
            except PoolError as error:
                self._fail(error)  # no retry: only another pool can be valid
            except NvdraError as error:
                if self._is_stopped:
                    return  # the request was cancelled
                self._fail(error)
                self._schedule.failed(error.retry_after_s if isinstance(error, ApiError) else None)
            else:
                self._schedule.succeeded(wrote=wrote)

    def _take_events(self) -> None:
        for event in self._watch.take():
            if event.is_gap:
                self._schedule.changed_externally()
            elif event.version not in self._own_versions:
                self._schedule.changed_externally()
                if event.is_deletion:
                    # Possibly garbage collected because the Node was recreated, with another UID.
                    self._target = replace(self._target, node_uid="")

    def _publish(self, deadline: Deadline, *, is_audit: bool) -> bool:
        """One attempt; whether something was written."""
        pool = self._source.pool()
        if is_audit:
            self._version = None  # the API server may have been upgraded
            self._retest(pool, deadline)
        if (
            not is_audit
            and self._layout(self._devices.publishable(pool), deadline) == self._published
        ):
            return False
        with self._metrics.publish():
            for _ in range(MAX_ROUNDS):
                parts = self._layout(self._devices.publishable(pool), deadline)
                if not self._are_kept(parts, deadline):
                    continue
                if (changes := self._write(parts, deadline)) is not None:
                    self._succeed(pool, parts, changes)
                    return bool(changes)
            raise ApiError(f"the API server refuses devices in {MAX_ROUNDS} attempts", status=422)

    def _retest(self, pool: Pool, deadline: Deadline) -> None:
        """Retest one part of what was dropped or refused, if it is due. Never raises NvdraError."""
        now_s = self._clock.monotonic()
        if not self._devices.has_losses:
            self._retest_at = now_s + RETEST_S
        elif now_s >= self._retest_at:
            self._retest_at = now_s + RETEST_S * (2 if pool.shared_counters else 1)
            try:
                self._probe(pool, deadline)
            except NvdraError as error:
                _LOG.info("retest of devices left out failed", v=2, error=str(error))

    def _probe(self, pool: Pool, deadline: Deadline) -> None:
        part = self._devices.probe(self._layout(pool, deadline))
        if part is None:
            return
        self._identify(deadline)
        body = diff.new_slice(self._target, [part], 0, generation=1)
        try:
            stored = self._slices.create(body, deadline, dry_run=True)
        except ApiError as error:
            accepts_more = self._devices.rejected(part, refused_devices(error, body))
        else:
            accepts_more = self._devices.accepted(part, diff.dropped(body, stored))
        if accepts_more:
            _LOG.info("the API server accepts what it dropped or refused before; publishing it")

    def _layout(self, pool: Pool, deadline: Deadline) -> tuple[Part, ...]:
        if pool.shared_counters and self._version is None:
            self._version = self._slices.server_version(deadline)
        is_split = self._version is None or self._version >= layout.SPLIT_SINCE
        return layout.layout(pool, is_split=is_split)

    def _are_kept(self, parts: tuple[Part, ...], deadline: Deadline) -> bool:
        """Whether the server keeps the fields that make the devices safe; a dry run for each gate, once."""
        for index, part in enumerate(parts):
            if not (unconfirmed := self._devices.unconfirmed(part)):
                continue
            self._identify(deadline)
            body = diff.new_slice(self._target, parts, index, generation=1)
            stored = self._send(body, lambda b: self._slices.create(b, deadline, dry_run=True))
            if stored is None:
                return False
            if gates := diff.dropped(body, stored) & unconfirmed:
                self._drop(gates)
                return False
            self._devices.confirm(unconfirmed)
        return True

    def _write(self, parts: tuple[Part, ...], deadline: Deadline) -> diff.Changes | None:
        """List, compare, write. None: a device was refused or is unsafe; start again without it."""
        self._identify(deadline)
        listing = self._watch.listing(LISTING_S) or self._slices.list(deadline)
        wanted = self._devices.as_stored(parts)
        changes = diff.diff(self._target, wanted, listing.items)
        for index, body in changes.update:
            if not self._put(parts, index, body, lambda b: self._slices.update(b, deadline)):
                return None
        for index, body in changes.create:
            if not self._put(parts, index, body, lambda b: self._slices.create(b, deadline)):
                return None
        for obj in changes.delete:
            self._watch.expect_deletion(obj["metadata"]["name"])
            self._slices.delete(obj, deadline)
        self._watch.start(listing.resource_version)
        return changes

    def _put(
        self,
        parts: tuple[Part, ...],
        index: int,
        body: JsonObject,
        write: Callable[[JsonObject], JsonObject],
    ) -> bool:
        stored = self._send(body, write)
        if stored is None:
            return False
        self._own_versions.append(stored["metadata"].get("resourceVersion", ""))
        if gates := diff.dropped(body, stored):
            self._devices.adopt(index, parts[index], stored)
            self._drop(gates)
            return not self._devices.is_unsafe(gates, parts[index])
        return True

    def _send(
        self, body: JsonObject, write: Callable[[JsonObject], JsonObject]
    ) -> JsonObject | None:
        """What was stored; None when the server refuses devices, which are then left out."""
        try:
            return write(body)
        except ApiError as error:
            refused = refused_devices(error, body)
            if not refused:
                raise
            for device in refused:
                _LOG.warning("device refused by the API server", error, device=device["name"])
                self._devices.refuse(device, str(error))
            return None

    def _identify(self, deadline: Deadline) -> None:
        if not self._target.node_uid:
            uid = self._slices.node_uid(deadline)
            self._target = replace(self._target, node_uid=uid)

    def _drop(self, gates: frozenset[str]) -> None:
        if new := self._devices.drop(gates):
            _LOG.warning("fields dropped by the API server", gates=",".join(sorted(new)))

    def _succeed(self, pool: Pool, parts: tuple[Part, ...], changes: diff.Changes) -> None:
        self._published = parts
        self._status = PublishStatus(
            is_published=True,
            generation=changes.generation,
            slices=len(parts),
            devices=sum(len(part.get("devices", ())) for part in parts),
            succeeded_at_s=self._clock.wall(),
            left_out=self._devices.left_out(pool),
            dropped=self._devices.dropped,
        )
        if changes:
            _LOG.info(
                "slices published", v=1, driver=self._target.driver, devices=self._status.devices,
                slices=len(parts), generation=changes.generation, created=len(changes.create),
                updated=len(changes.update), deleted=len(changes.delete),
            )  # fmt: skip

    def _fail(self, error: NvdraError) -> None:
        if str(error) != self._status.error:  # not for each retry
            _LOG.warning("slices not published", error, driver=self._target.driver)
        self._status = replace(self._status, is_published=False, error=str(error))
        self._published = None
