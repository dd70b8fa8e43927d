"""Keeps the inventory fresh: looks at the GPUs when something happened and now and then, and tells when they changed.

Owns one thread. It polls the kernel for the driver's version (one small file), so a driver that is loaded, unloaded or
replaced is seen within seconds; it looks at all GPUs periodically and on ``trigger``; after a look that failed it tries
again with growing pauses. A GPU that hung is left alone for longer each time, and for as long as the kernel still holds
a process that asked it. Built without starting; ``tick`` is one turn of the loop, for tests.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import msgspec
from msgspec.structs import replace

from nvdra_core.runtime import log
from nvdra_core.runtime.clock import Clock
from nvdra_core.runtime.workers import Workers
from nvdra_node.gpu import discover
from nvdra_node.gpu.model import Gpu, GpuState, Inventory
from nvdra_node.host.host import Host

_LOG = log.get(__name__)


class WatchSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How often to look, in seconds."""

    rescan_s: float = 60.0
    driver_poll_s: float = 2.0
    retry_s: float = 2.0
    """First pause after a failed look; doubles up to ``rescan_s``."""
    waiting_s: float = 1.0
    """Pause while GPUs have not answered yet."""
    max_busy: float = 0.1
    """Share of the time that looks may take: a look at cold GPUs takes long and wakes each of them."""
    hung_s: float = 10.0
    """First pause before a hung GPU is asked again; doubles up to ``max_hung_s``."""
    max_hung_s: float = 600.0
    limits: discover.Limits = msgspec.field(default_factory=discover.Limits)


class _Hung(msgspec.Struct, frozen=True):
    """What is known of a GPU that does not answer."""

    times: int
    ask_at_s: float


class Watch:
    """The inventory, and its one writer. Safe for several threads."""

    def __init__(
        self,
        host: Host,
        clock: Clock,
        settings: WatchSettings | None = None,
        workers: Workers | None = None,
    ) -> None:
        """``workers`` supervises the thread, so that a bug in it ends the service; without it nobody does."""
        self._host = host
        self._clock = clock
        self._settings = settings or WatchSettings()
        self._workers = workers
        self._inventory = Inventory(devices=(), driver_version=None)
        self._changed: list[Callable[[], None]] = []
        self._has_looked = threading.Event()
        self._has_settled = threading.Event()
        self._wake = threading.Event()
        self._is_stopping = threading.Event()
        self._asked = threading.Event()
        self._asked.set()
        self._forgiven = threading.Event()
        self._thread: threading.Thread | None = None
        self._loaded: str | None = None
        self._failures = 0
        self._look_at_s = 0.0
        self._began_s: float | None = None
        """When the looks began of which the last one is not complete yet."""
        self._hung: dict[int, _Hung] = {}

    @property
    def inventory(self) -> Inventory:
        """The last look. Empty before the first one."""
        return self._inventory

    def subscribe(self, changed: Callable[[], None]) -> None:
        """Call ``changed`` (must be cheap) from the watch's thread after each look that found something else."""
        self._changed.append(changed)

    def reload(self) -> None:
        """Look at all GPUs now, also at those that are left alone because they hung: somebody may have healed them."""
        self._forgiven.set()
        self.trigger("told to reload")

    def trigger(self, why: str) -> None:
        """Look again soon: an NVML error somewhere, a device that is not as it was. Never blocks."""
        _LOG.info("asked to look at the GPUs again", v=3, why=why)
        self._asked.set()
        self._wake.set()

    def start(self) -> None:
        """Start the thread; the first look comes at once."""
        if self._workers is not None:
            self._thread = self._workers.spawn("gpu-watch", self._run)
            return
        self._thread = threading.Thread(target=self._run, name="gpu-watch", daemon=True)
        self._thread.start()

    def wait_first(self, timeout_s: float) -> bool:
        """Wait until there was a look; whether there was one."""
        return self._clock.wait(self._has_looked, timeout_s)

    def wait_settled(self, timeout_s: float) -> bool:
        """Wait until a look has left no GPU without an answer; whether one has."""
        return self._clock.wait(self._has_settled, timeout_s)

    def stop(self, timeout_s: float = 5.0) -> bool:
        """End the thread; False when a look in progress keeps it longer than ``timeout_s``."""
        self._is_stopping.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout_s)
            return not self._thread.is_alive()
        return True

    def tick(self) -> None:
        """Look if there is a reason to."""
        now_s = self._clock.monotonic()
        loaded = self._host.sysfs.driver_instance()
        is_swapped = loaded != self._loaded
        if is_swapped:
            _LOG.info("NVIDIA driver changed", was=self._loaded, now=loaded)
            self._loaded = loaded
            self._failures = 0
            self._hung.clear()
            # The library of the old driver cannot talk to the new one, and an open session keeps a module loaded.
            self._host.nvml.close()
        if self._forgiven.is_set():
            self._forgiven.clear()
            self._hung = {
                index: replace(hung, ask_at_s=now_s) for index, hung in self._hung.items()
            }
        is_asked = self._asked.is_set()
        self._asked.clear()
        if is_swapped or is_asked or now_s >= self._look_at_s:
            self._look()

    def _run(self) -> None:
        while not self._is_stopping.is_set():
            self._wake.clear()
            self.tick()
            due_in_s = self._look_at_s - self._clock.monotonic()
            self._clock.wait(self._wake, max(0.0, min(due_in_s, self._settings.driver_poll_s)))

    def _look(self) -> None:
        skip, limits = self._skip(), self._settings.limits
        if self._began_s is None:
            self._began_s = self._clock.monotonic()
        look = discover.discover(
            self._host, self._clock, limits=limits, before=self._inventory, skip=skip
        )
        now_s = self._clock.monotonic()
        for index in set(self._hung).difference(skip, look.hung, look.waiting):
            del self._hung[index]
        for index in look.hung:
            times = self._hung[index].times + 1 if index in self._hung else 1
            pause_s = min(self._settings.hung_s * 2 ** (times - 1), self._settings.max_hung_s)
            self._hung[index] = _Hung(times, now_s + pause_s)
        self._schedule(look, now_s)
        self._replace(look.inventory)
        self._has_looked.set()
        if look.complete:
            self._has_settled.set()

    def _skip(self) -> set[int]:
        """Which GPUs to leave alone now, as their calls never returned."""
        if self._hung and self._host.nvml.stuck():
            return set(self._hung)
        now_s = self._clock.monotonic()
        return {index for index, hung in self._hung.items() if hung.ask_at_s > now_s}

    def _schedule(self, look: discover.Look, now_s: float) -> None:
        """When to look without being asked: soon after a failure, less soon after each more, else in a while."""
        devices = look.inventory.devices
        is_failed = not look.complete or any(gpu.state is GpuState.FAILED for gpu in devices)
        self._failures = self._failures + 1 if is_failed else 0
        pause_s = self._settings.rescan_s
        if look.waiting:
            pause_s = self._settings.waiting_s
        elif is_failed:
            pause_s = min(self._settings.retry_s * 2 ** min(self._failures - 1, 16), pause_s)
        elif self._began_s is not None and any(gpu.persistence is False for gpu in devices):
            pause_s = max(pause_s, (now_s - self._began_s) / self._settings.max_busy)
        if not look.waiting:
            self._began_s = None
        ask_at_s = [hung.ask_at_s for hung in self._hung.values() if hung.ask_at_s > now_s]
        self._look_at_s = min([now_s + pause_s, *ask_at_s])

    def _replace(self, inventory: Inventory) -> None:
        before, self._inventory = self._inventory, inventory
        for note in inventory.notes:
            if note not in before.notes:
                _LOG.warning("GPUs", note=note)
        if (inventory.devices, inventory.driver_version) == (before.devices, before.driver_version):
            return
        known = {gpu.uuid: gpu.state for gpu in before.devices}
        for gpu in inventory.devices:
            if known.get(gpu.uuid) is not gpu.state:
                _tell(gpu)
        for changed in self._changed:
            changed()


def _tell(gpu: Gpu) -> None:
    """Log a GPU that is new or in a new state."""
    if gpu.state is GpuState.OK:
        _LOG.info("GPU found", v=1, device=gpu.name, uuid=gpu.uuid, product=gpu.product_name)
    else:
        _LOG.warning(
            "GPU sick", device=gpu.name, uuid=gpu.uuid, state=gpu.state.value, why=gpu.message
        )
