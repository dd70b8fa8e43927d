"""Watches the driver's ResourceSlices on this node for ``publisher``.

A Reflector runs in a thread of its own, because a watch blocks. What it sees is queued for the publisher's thread,
which takes it with ``take``: only after its own writes have returned can it tell them from foreign ones. The state with
which the watch begins saves the publisher's first list request (``listing``).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable

import msgspec

from nvdra_core.kube.reflector import Reflector, ReflectorSettings
from nvdra_core.kube.resources import JsonObject, ObjectList
from nvdra_core.runtime.clock import Clock
from nvdra_node.kubeletplugin.slices.client import SliceClient

MAX_EVENTS = 1000
JOIN_S = 2.0


class SliceEvent(msgspec.Struct, frozen=True):
    """One change; ``is_gap``: changes may have been missed."""

    version: str = ""
    is_deletion: bool = False
    is_gap: bool = False


class SliceWatch:
    """See the module. ``notify`` is called from the watch's thread when there is something to take."""

    def __init__(self, slices: SliceClient, clock: Clock, notify: Callable[[], None]) -> None:
        self._slices = slices
        self._clock = clock
        self._notify = notify
        self._lock = threading.Lock()
        self._reflector: Reflector | None = None
        self._thread: threading.Thread | None = None
        self._is_stopped = False
        self._initial: ObjectList | None = None
        """The state with which the watch began, until something changes or the publisher asks for it."""
        self._is_listed = False
        """The publisher knows the slices: from ``_initial`` or from a list of its own."""
        self._events: deque[SliceEvent] = deque(maxlen=MAX_EVENTS)
        self._own_deletions: set[str] = set()

    # The publisher's side; any thread.

    def start(self, resource_version: str = "") -> None:
        """Watch from a version on, or from the current state; does nothing when the watch runs already."""
        with self._lock:
            if self._reflector is not None or self._is_stopped:
                return
            settings = ReflectorSettings(resource_version=resource_version, is_streaming=True)
            self._reflector = Reflector(self._slices.source(), self, self._clock, settings)
            self._thread = threading.Thread(
                target=self._reflector.run, name="slice-watch", daemon=True
            )
            self._thread.start()

    def has_listing(self) -> bool:
        """Whether ``listing`` would return one."""
        return self._initial is not None

    def has_devices(self) -> bool:
        """Whether ``listing`` would return slices with devices."""
        with self._lock:
            items = self._initial.items if self._initial is not None else ()
            return any(item["spec"].get("devices") for item in items)

    def listing(self, wait_s: float) -> ObjectList | None:
        """The state with which the watch began; None if something has changed since, or from the second call on.

        Waits for a watch that has just been started.
        """
        reflector = self._reflector
        if reflector is not None and not self._is_listed:
            self._clock.wait(reflector.synced, wait_s)
        with self._lock:
            self._is_listed = True
            found, self._initial = self._initial, None
            return found

    def expect_deletion(self, name: str) -> None:
        """The publisher is about to delete this slice: its deletion is no event."""
        with self._lock:
            self._own_deletions.add(name)

    def take(self) -> list[SliceEvent]:
        """The events since the last call."""
        with self._lock:
            events = list(self._events)
            self._events.clear()
        return events

    def stop(self) -> None:
        """End the watch."""
        with self._lock:
            self._is_stopped = True
            if self._reflector is not None:
                self._reflector.stop()

    def join(self) -> None:
        """Wait for the thread's end, after ``stop``."""
        if self._thread is not None:
            self._thread.join(JOIN_S)

    # The reflector's store; its thread.

    def replace(self, objects: Iterable[JsonObject]) -> None:
        """See Store."""
        items = list(objects)
        with self._lock:
            if not self._is_listed:
                self._initial = ObjectList(items, "")
                return
        self._add(SliceEvent(is_gap=True))

    def put(self, obj: JsonObject) -> None:
        """See Store."""
        self._add(SliceEvent(obj["metadata"].get("resourceVersion", "")))

    def delete(self, obj: JsonObject) -> None:
        """See Store."""
        metadata = obj["metadata"]
        with self._lock:
            is_own = metadata["name"] in self._own_deletions
            self._own_deletions.discard(metadata["name"])
            self._initial = None
        if not is_own:
            self._add(SliceEvent(metadata.get("resourceVersion", ""), is_deletion=True))

    def _add(self, event: SliceEvent) -> None:
        with self._lock:
            self._initial = None
            self._events.append(event)
        self._notify()
