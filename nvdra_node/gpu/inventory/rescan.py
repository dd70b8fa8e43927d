"""Maintains the GPU inventory: rescans periodically, on ``trigger`` and when the driver changes; notifies subscribers.

One thread. It polls the loaded driver's instance (one small file), so a driver that was loaded, unloaded or replaced is
noticed within seconds. A failed scan is repeated with exponential backoff. A GPU whose NVML call hung is skipped for
longer each time, and as long as the kernel holds a process of such a call.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import msgspec
from msgspec.structs import replace

from nvdra_core.runtime import log
from nvdra_core.runtime.clock import Clock
from nvdra_core.runtime.workers import Workers
from nvdra_node.gpu.inventory import discover
from nvdra_node.gpu.inventory.scan import Limits
from nvdra_node.gpu.model import Gpu, GpuState, Inventory
from nvdra_node.host.host import Host

_LOG = log.get(__name__)


class RescanSettings(msgspec.Struct, frozen=True, kw_only=True):
    """When to scan."""

    rescan_s: float = 60.0
    driver_poll_s: float = 2.0
    retry_s: float = 2.0
    """First pause after a failed scan; doubles up to ``rescan_s``."""
    waiting_s: float = 1.0
    """Pause while NVML calls of a scan are still in progress."""
    max_busy: float = 0.1
    """Largest share of time for scans: scanning GPUs without persistence mode takes long and wakes each of them."""
    hung_s: float = 10.0
    """First pause before a hung GPU is scanned again; doubles up to ``max_hung_s``."""
    max_hung_s: float = 600.0
    limits: Limits = msgspec.field(default_factory=Limits)


class _Hung(msgspec.Struct, frozen=True):
    """A GPU whose NVML call hung."""

    times: int
    retry_at_s: float


class Rescanner:
    """Owns the inventory. Thread safe."""

    def __init__(
        self,
        host: Host,
        clock: Clock,
        settings: RescanSettings | None = None,
        workers: Workers | None = None,
    ) -> None:
        """``workers`` supervises the thread: an unexpected exception then ends the service."""
        self._host = host
        self._clock = clock
        self._settings = settings or RescanSettings()
        self._workers = workers
        self._inventory = Inventory(gpus=(), driver_version=None)
        self._subscribers: list[Callable[[], None]] = []
        self._has_scanned = threading.Event()
        self._has_settled = threading.Event()
        self._wake = threading.Event()
        self._is_stopping = threading.Event()
        self._is_triggered = threading.Event()
        self._is_triggered.set()
        self._should_retry_hung = threading.Event()
        self._thread: threading.Thread | None = None
        self._driver_instance: str | None = None
        self._failures = 0
        self._next_scan_at_s = 0.0
        self._incomplete_since_s: float | None = None
        self._hung: dict[int, _Hung] = {}

    @property
    def inventory(self) -> Inventory:
        """Result of the last scan; empty before the first one."""
        return self._inventory

    def subscribe(self, changed: Callable[[], None]) -> None:
        """Call ``changed`` (must be cheap) from the scan thread after each scan that changed the inventory."""
        self._subscribers.append(changed)

    def reload(self) -> None:
        """Scan all GPUs now, hung ones included: an administrator may have reset them."""
        self._should_retry_hung.set()
        self.trigger("reload")

    def trigger(self, why: str) -> None:
        """Scan soon: an NVML call failed elsewhere, or a device differs from the inventory. Never blocks."""
        _LOG.info("GPU scan requested", v=3, why=why)
        self._is_triggered.set()
        self._wake.set()

    def start(self) -> None:
        """Start the thread; the first scan begins at once."""
        if self._workers is not None:
            self._thread = self._workers.spawn("gpu-rescan", self._run)
            return
        self._thread = threading.Thread(target=self._run, name="gpu-rescan", daemon=True)
        self._thread.start()

    def wait_first(self, timeout_s: float) -> bool:
        """Wait for the end of the first scan; False on timeout."""
        return self._clock.wait(self._has_scanned, timeout_s)

    def wait_settled(self, timeout_s: float) -> bool:
        """Wait for a scan in which all GPUs answered; False on timeout."""
        return self._clock.wait(self._has_settled, timeout_s)

    def stop(self, timeout_s: float = 5.0) -> bool:
        """End the thread; False when a scan in progress takes longer than ``timeout_s``."""
        self._is_stopping.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout_s)
            return not self._thread.is_alive()
        return True

    def rescan_if_due(self) -> None:
        """One pass of the loop."""
        now_s = self._clock.monotonic()
        instance = self._host.sysfs.driver_instance()
        is_swapped = instance != self._driver_instance
        if is_swapped:
            _LOG.info("NVIDIA driver changed", was=self._driver_instance, now=instance)
            self._driver_instance = instance
            self._failures = 0
            self._hung.clear()
            # The library of the old driver cannot talk to the new one, and an open session keeps a module loaded.
            self._host.close_nvml()
        if self._should_retry_hung.is_set():
            self._should_retry_hung.clear()
            self._hung = {
                index: replace(hung, retry_at_s=now_s) for index, hung in self._hung.items()
            }
        is_triggered = self._is_triggered.is_set()
        self._is_triggered.clear()
        if is_swapped or is_triggered or now_s >= self._next_scan_at_s:
            self._scan()

    def _run(self) -> None:
        while not self._is_stopping.is_set():
            self._wake.clear()
            self.rescan_if_due()
            due_in_s = self._next_scan_at_s - self._clock.monotonic()
            self._clock.wait(self._wake, max(0.0, min(due_in_s, self._settings.driver_poll_s)))

    def _scan(self) -> None:
        skip, limits = self._skipped(), self._settings.limits
        if self._incomplete_since_s is None:
            self._incomplete_since_s = self._clock.monotonic()
        result = discover.discover(
            self._host, self._clock, limits=limits, before=self._inventory, skip=skip
        )
        now_s = self._clock.monotonic()
        for index in set(self._hung).difference(skip, result.hung, result.waiting):
            del self._hung[index]
        for index in result.hung:
            times = self._hung[index].times + 1 if index in self._hung else 1
            pause_s = min(self._settings.hung_s * 2 ** (times - 1), self._settings.max_hung_s)
            self._hung[index] = _Hung(times, now_s + pause_s)
        self._schedule(result, now_s)
        self._replace(result.inventory)
        self._has_scanned.set()
        if result.is_complete:
            self._has_settled.set()

    def _skipped(self) -> set[int]:
        """NVML indices of hung GPUs that are not due for a retry."""
        if self._hung and self._host.nvml.stuck():
            return set(self._hung)
        now_s = self._clock.monotonic()
        return {index for index, hung in self._hung.items() if hung.retry_at_s > now_s}

    def _schedule(self, result: discover.ScanResult, now_s: float) -> None:
        """Set the time of the next scan: backoff after failures, else the rescan period."""
        gpus = result.inventory.gpus
        is_failed = not result.is_complete or any(gpu.state is GpuState.FAILED for gpu in gpus)
        self._failures = self._failures + 1 if is_failed else 0
        pause_s = self._settings.rescan_s
        if result.waiting:
            pause_s = self._settings.waiting_s
        elif is_failed:
            pause_s = min(self._settings.retry_s * 2 ** min(self._failures - 1, 16), pause_s)
        elif self._incomplete_since_s is not None and any(gpu.persistence is False for gpu in gpus):
            pause_s = max(pause_s, (now_s - self._incomplete_since_s) / self._settings.max_busy)
        if not result.waiting:
            self._incomplete_since_s = None
        retries = [hung.retry_at_s for hung in self._hung.values() if hung.retry_at_s > now_s]
        self._next_scan_at_s = min([now_s + pause_s, *retries])

    def _replace(self, inventory: Inventory) -> None:
        before = self._inventory
        if inventory == before:
            return  # keep the object: what was derived from it stays valid
        self._inventory = inventory
        for note in inventory.notes:
            if note not in before.notes:
                _LOG.warning("GPU scan", note=note)
        if (inventory.gpus, inventory.driver_version) == (before.gpus, before.driver_version):
            return
        known = {gpu.uuid: gpu.state for gpu in before.gpus}
        for gpu in inventory.gpus:
            if known.get(gpu.uuid) is not gpu.state:
                _log_state(gpu)
        for changed in self._subscribers:
            changed()


def _log_state(gpu: Gpu) -> None:
    """Log a GPU that is new or in a new state."""
    if gpu.state is GpuState.OK:
        _LOG.info("GPU found", v=1, device=gpu.name, uuid=gpu.uuid, product=gpu.product_name)
    else:
        _LOG.warning(
            "GPU unhealthy", device=gpu.name, uuid=gpu.uuid, state=gpu.state.value, why=gpu.message
        )
