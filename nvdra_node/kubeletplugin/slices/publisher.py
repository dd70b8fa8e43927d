"""Keeps this driver's ResourceSlices as the driver wants them, against whoever changes or wipes them.

In: ``driver.pool()``, woken by the driver's changes, by the kubelet's registration, and by a watch. Out: writes to the
API server, and a ``PublishStatus``. Run by the composition root in one thread of its own, which never ends by itself:
every failure is told, counted and tried again. At start it takes three requests: the Node, a watch that begins with a
list, a write.

Nothing is ever offered that the API server would strip of what makes it safe: a taint that keeps claims from a sick
GPU, counters that keep overlapping partitions apart. Whether the server keeps such fields is asked by a dry run first;
where it does not, those devices are left out. A device that the server refuses is left out as well: it must not hide
the others. What was dropped or refused is tried again from time to time, by a dry run.
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
from nvdra_node.kubeletplugin.driver import Pool
from nvdra_node.kubeletplugin.slices import device_set, diff, layout
from nvdra_node.kubeletplugin.slices.client import Slices
from nvdra_node.kubeletplugin.slices.layout import JsonObject, Part, PoolError
from nvdra_node.kubeletplugin.slices.schedule import Pace
from nvdra_node.kubeletplugin.slices.watch import SliceWatch

INTRODUCE_S = 5.0
ATTEMPT_S = 20.0
LISTING_S = 2.0
"""How long to wait for a watch to say what there is, before it is asked for with a list."""
RETEST_S = 600.0
"""For each request that trying again costs: gates are turned on, and control planes upgraded, while nodes run."""
MAX_ROUNDS = 16
"""Writes of one attempt begin anew when the server refused or dropped something; at most so often."""

_LOG = log.get(__name__)


class PoolSource(Protocol):
    """The part of ``driver.Driver`` that is needed."""

    name: str

    def pool(self) -> Pool:
        """See Driver."""


class PublishMetrics(Protocol):
    """Where attempts are counted (``kubeletplugin.metrics``)."""

    def publish(self) -> AbstractContextManager[None]:
        """Around an attempt that asks the API server; an exception is its outcome and goes on."""


class PublishStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What is published, for health, metrics and nvdractl. Times are wall clock, 0: never."""

    is_published: bool = False
    """The last attempt succeeded: what is stored is what the driver offers, less ``left_out``."""
    generation: int = 0
    slices: int = 0
    devices: int = 0
    succeeded_at_s: float = 0.0
    error: str = ""
    left_out: Mapping[str, str] = msgspec.field(default_factory=dict)
    """Devices that cannot be offered, and why."""
    dropped: frozenset[str] = frozenset()
    """Feature gates that the API server lacks for what the driver offers."""


class Publisher:
    """See the module. Built without starting anything."""

    def __init__(
        self,
        source: PoolSource,
        node: str,
        slices: Slices,
        metrics: PublishMetrics,
        clock: Clock,
    ) -> None:
        self._source = source
        self._slices = slices
        self._metrics = metrics
        self._clock = clock
        self._pace = Pace(clock)
        self._wake = threading.Event()
        self._stopped = False
        self._target = diff.Target(driver=source.name, node=node, node_uid="")
        self._offer = device_set.Offer()
        self._published: tuple[Part, ...] | None = None
        self._version: tuple[int, int] | None = None
        self._retest_at_s = math.inf
        self._own_versions: deque[str] = deque(maxlen=256)
        self._watch = SliceWatch(slices, clock, self._wake.set)
        self._status = PublishStatus()

    # What happened; each returns at once, from any thread.

    def changed(self) -> None:
        """The pool may be another one: ``driver.subscribe(publisher.changed)``."""
        self._pace.changed()
        self._wake.set()

    def registered(self) -> None:
        """The kubelet registered the plugin: look at the slices now and in half a minute."""
        self._pace.registered()
        self._wake.set()

    def published(self) -> PublishStatus:
        """The state of things."""
        return self._status

    @property
    def knows_slices(self) -> bool:
        """Whether the watch has told what there is, and nothing has happened since: the next write needs no list."""
        return self._watch.has_listing()

    def has_devices(self) -> bool:
        """Whether slices with devices were there before the first attempt, as far as the watch has told."""
        return self._watch.has_devices()

    def stop(self) -> None:
        """End ``run``; the slices stay."""
        self._stopped = True
        self._watch.stop()
        self._wake.set()

    # The thread.

    def introduce(self) -> None:
        """Get to know the API server, our Node and our slices while the kubelet still takes its time. What fails here
        is tried again, and told, by the first attempt."""
        self._watch.start()  # meanwhile, on a connection of its own
        try:
            self._identify(Deadline(INTRODUCE_S, self._clock))
        except NvdraError as error:
            _LOG.info("Node not read yet", v=2, error=str(error))

    def run(self) -> None:
        """Publish until ``stop``. Raises only what is a bug."""
        while not self._stopped:
            self._wake.clear()
            self._heed_events()
            if self._pace.due_in_s() <= 0.0:
                self.attempt()
            if not self._stopped:
                self._clock.wait(self._wake, self._pace.due_in_s())
        self._watch.join()

    def attempt(self) -> None:
        """Bring what is stored in line once, or plan the next try. Never raises NvdraError."""
        is_check = self._pace.begin()
        deadline = Deadline(ATTEMPT_S, self._clock)
        with log.operation():
            try:
                wrote = self._publish(deadline, is_check=is_check)
            except PoolError as error:
                self._fail(error)  # waiting does not help: the next pool may be right
            except NvdraError as error:
                if self._stopped:
                    return  # no news: what it waited for was ended
                self._fail(error)
                self._pace.failed(error.retry_after_s if isinstance(error, ApiError) else None)
            else:
                self._pace.succeeded(wrote=wrote)

    def _heed_events(self) -> None:
        for event in self._watch.take():
            if event.is_gap:
                self._pace.meddled()
            elif event.version not in self._own_versions:
                self._pace.meddled()
                if event.is_deletion:
                    # The Node itself may be another one now, and its garbage was collected.
                    self._target = replace(self._target, node_uid="")

    def _publish(self, deadline: Deadline, *, is_check: bool) -> bool:
        """One attempt; True when something was written."""
        pool = self._source.pool()
        if is_check:
            self._version = None  # the API server may have been upgraded
            self._retest(pool, deadline)
        if not is_check and self._lay_out(self._offer.reduce(pool), deadline) == self._published:
            return False
        with self._metrics.publish():
            for _ in range(MAX_ROUNDS):
                parts = self._lay_out(self._offer.reduce(pool), deadline)
                if not self._is_kept(parts, deadline):
                    continue
                if (changes := self._write(parts, deadline)) is not None:
                    self._succeed(pool, parts, changes)
                    return bool(changes)
            raise ApiError("the API server refuses one device after the other", status=422)

    def _retest(self, pool: Pool, deadline: Deadline) -> None:
        """Try one part of what was dropped or refused again, if it is time. Never raises for what the server says."""
        now_s = self._clock.monotonic()
        if not self._offer.has_losses:
            self._retest_at_s = now_s + RETEST_S
        elif now_s >= self._retest_at_s:
            self._retest_at_s = now_s + RETEST_S * (2 if pool.shared_counters else 1)
            try:
                self._probe(pool, deadline)
            except NvdraError as error:
                _LOG.info("what was left out was not tried again", v=2, error=str(error))

    def _probe(self, pool: Pool, deadline: Deadline) -> None:
        part = self._offer.probe(self._lay_out(pool, deadline))
        if part is None:
            return
        self._identify(deadline)
        body = diff.new_slice(self._target, [part], 0, generation=1)
        try:
            stored = self._slices.create(body, deadline, dry_run=True)
        except ApiError as error:
            takes_more = self._offer.refused_again(part, device_set.refused_devices(error, body))
        else:
            takes_more = self._offer.tried(part, diff.dropped(body, stored))
        if takes_more:
            _LOG.info("the API server takes what it dropped or refused; offering it")

    def _lay_out(self, allowed: Pool, deadline: Deadline) -> tuple[Part, ...]:
        if allowed.shared_counters and self._version is None:
            self._version = self._slices.server_version(deadline)
        is_split = self._version is None or self._version >= layout.SPLIT_SINCE
        return layout.layout(allowed, is_split=is_split)

    def _is_kept(self, parts: tuple[Part, ...], deadline: Deadline) -> bool:
        """Whether the server keeps what makes the devices safe; asked once for each field, before it matters."""
        for index, part in enumerate(parts):
            if not (unproven := self._offer.unproven(part)):
                continue
            self._identify(deadline)
            body = diff.new_slice(self._target, parts, index, generation=1)
            stored = self._guarded(body, lambda b: self._slices.create(b, deadline, dry_run=True))
            if stored is None:
                return False
            if gates := diff.dropped(body, stored) & unproven:
                self._drop(gates)
                return False
            self._offer.prove(unproven)
        return True

    def _write(self, parts: tuple[Part, ...], deadline: Deadline) -> diff.Changes | None:
        """List, compare, write. None: something was refused, begin anew."""
        self._identify(deadline)
        listing = self._watch.listing(LISTING_S) or self._slices.list(deadline)
        wanted = self._offer.as_stored(parts)
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
        stored = self._guarded(body, write)
        if stored is None:
            return False
        self._own_versions.append(stored["metadata"].get("resourceVersion", ""))
        if gates := diff.dropped(body, stored):
            self._offer.adopt(index, parts[index], stored)
            self._drop(gates)
            return not self._offer.is_unsafe(gates, parts[index])
        return True

    def _guarded(
        self, body: JsonObject, write: Callable[[JsonObject], JsonObject]
    ) -> JsonObject | None:
        """What was stored; None when the server refuses a device, which is left out from now on."""
        try:
            return write(body)
        except ApiError as error:
            refused = device_set.refused_devices(error, body)
            if not refused:
                raise
            for device in refused:
                _LOG.warning("device refused by the API server", error, device=device["name"])
                self._offer.refuse(device, str(error))
            return None

    def _identify(self, deadline: Deadline) -> None:
        if not self._target.node_uid:
            uid = self._slices.node_uid(deadline)
            self._target = replace(self._target, node_uid=uid)

    def _drop(self, gates: frozenset[str]) -> None:
        if new := self._offer.drop(gates):
            _LOG.warning("fields dropped by the API server", gates=",".join(sorted(new)))

    def _succeed(self, pool: Pool, parts: tuple[Part, ...], changes: diff.Changes) -> None:
        self._published = parts
        self._status = PublishStatus(
            is_published=True,
            generation=changes.generation,
            slices=len(parts),
            devices=sum(len(part.get("devices", ())) for part in parts),
            succeeded_at_s=self._clock.wall(),
            left_out=self._offer.left_out(pool),
            dropped=self._offer.dropped,
        )
        if changes:
            _LOG.info(
                "slices published", v=1, driver=self._target.driver, devices=self._status.devices,
                slices=len(parts), generation=changes.generation, created=len(changes.create),
                updated=len(changes.update), deleted=len(changes.delete),
            )  # fmt: skip

    def _fail(self, error: NvdraError) -> None:
        if str(error) != self._status.error:  # once, and not with every try
            _LOG.warning("slices not published", error, driver=self._target.driver)
        self._status = replace(self._status, is_published=False, error=str(error))
        self._published = None
