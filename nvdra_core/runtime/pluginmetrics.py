"""The metrics of a kubelet plugin: upstream's names, labels and buckets unchanged, and what
upstream does not tell.

Built by ``cli``, counted into by ``transaction``, ``publisher``, ``claims`` and the journal.
Upstream's first three families count successes only; ``operations_total`` and
``operation_duration_seconds`` have every outcome, with buckets fine enough for preparations of a
few milliseconds.
"""

from __future__ import annotations

import resource
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from nvdra_core.errors import LockTimeoutError, NvdraError
from nvdra_core.runtime.clock import Clock
from nvdra_core.runtime.metrics import Counter, Gauge, Histogram, Registry, exponential_buckets

PREPARE = "prepare"
UNPREPARE = "unprepare"
OPERATIONS = (PREPARE, UNPREPARE)
SUCCESS = "success"
UPSTREAM_BUCKETS = exponential_buckets(0.05, 2, 9)
"""0.05 s to 12.8 s."""
FINE_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)  # fmt: skip
_REQUEST = ("driver", "operation")
_OUTCOME = ("driver", "operation", "outcome")


class PluginMetrics:
    """All metrics of one driver on one node; the series that matter exist at 0 from the start.

    ``device_types``: the values of ``device_type`` that this driver can have (``gpu``, ``mig``,
    ``vfio``).
    """

    def __init__(
        self,
        registry: Registry,
        clock: Clock,
        *,
        driver: str,
        node: str,
        device_types: Iterable[str],
    ) -> None:
        self._clock = clock
        self._driver = driver
        self._node = node
        self._device_types = (*device_types, "unknown")
        self._add_upstreams(registry)
        self._add_operations(registry)
        self._add_api(registry)
        self._add_state(registry)
        self.set_prepared({})

    def _add_upstreams(self, registry: Registry) -> None:
        self.requests: Counter = registry.counter(
            "nvidia_dra_requests_total", "Claims prepared or unprepared successfully", _REQUEST
        )
        self.request_duration: Histogram = registry.histogram(
            "nvidia_dra_request_duration_seconds",
            "Time of successful prepares and unprepares, with waiting for locks",
            _REQUEST,
            buckets=UPSTREAM_BUCKETS,
        )
        self.inflight: Gauge = registry.gauge(
            "nvidia_dra_requests_inflight", "Claims being prepared or unprepared now", _REQUEST
        )
        self.prepared: Gauge = registry.gauge(
            "nvidia_dra_prepared_devices",
            "Devices of claims that are prepared",
            ("node", "driver", "device_type"),
        )
        errors = ("driver", "error_type")
        self._errors: Mapping[str, Counter] = {
            operation: registry.counter(
                f"nvidia_dra_node_{operation}_errors_total",
                f"Failed attempts to {operation}",
                errors,
            )
            for operation in OPERATIONS
        }
        for operation in OPERATIONS:
            for seeded in (self.requests, self.request_duration, self.inflight):
                seeded.seed(self._driver, operation)
            for error_type in ("lock_acquire", f"{operation}_devices", "publish_resources"):
                self._errors[operation].seed(self._driver, error_type)

    def _add_operations(self, registry: Registry) -> None:
        self.operations: Counter = registry.counter(
            "nvidia_dra_operations_total", "Prepares and unprepares by outcome", _OUTCOME
        )
        self.operation_duration: Histogram = registry.histogram(
            "nvidia_dra_operation_duration_seconds",
            "Time of prepares and unprepares by outcome, with waiting for locks",
            _OUTCOME,
            buckets=FINE_BUCKETS,
        )
        self.stage_duration: Histogram = registry.histogram(
            "nvidia_dra_stage_duration_seconds",
            "Time of each stage of a prepare or unprepare",
            ("driver", "operation", "stage"),
            buckets=FINE_BUCKETS,
        )
        for operation in OPERATIONS:
            self.operations.seed(self._driver, operation, SUCCESS)
            self.operation_duration.seed(self._driver, operation, SUCCESS)

    def _add_api(self, registry: Registry) -> None:
        outcome = ("driver", "outcome")
        self.publishes: Counter = registry.counter(
            "nvidia_dra_slice_publishes_total", "Writes of the pool of ResourceSlices", outcome
        )
        self.publish_duration: Histogram = registry.histogram(
            "nvidia_dra_slice_publish_duration_seconds",
            "Time to write the pool of ResourceSlices",
            outcome,
            buckets=FINE_BUCKETS,
        )
        self.claim_reads: Counter = registry.counter(
            "nvidia_dra_claim_reads_total", "ResourceClaims read from the API server", outcome
        )
        self.publishes.seed(self._driver, SUCCESS)
        self.claim_reads.seed(self._driver, SUCCESS)

    def _add_state(self, registry: Registry) -> None:
        only_driver = ("driver",)
        self.journal_writes: Counter = registry.counter(
            "nvidia_dra_journal_writes_total", "Claim records written and flushed", only_driver
        )
        self.quarantined: Gauge = registry.gauge(
            "nvidia_dra_records_quarantined",
            "Claim records set aside because unreadable",
            only_driver,
        )
        self.nvml_hung: Counter = registry.counter(
            "nvidia_dra_nvml_hung_total", "NVML calls given up on after their deadline", only_driver
        )
        for metric in (self.journal_writes, self.quarantined, self.nvml_hung):
            metric.seed(self._driver)

    @contextmanager
    def operation(self, operation: str) -> Iterator[None]:
        """Count one claim's prepare or unprepare; an exception is its outcome and goes on."""
        start_s = self._clock.monotonic()
        self.inflight.add(1, self._driver, operation)
        try:
            yield
        except Exception as error:
            self._failed(operation, error, self._clock.monotonic() - start_s)
            raise
        else:
            self._succeeded(operation, self._clock.monotonic() - start_s)
        finally:
            self.inflight.add(-1, self._driver, operation)

    @contextmanager
    def stage(self, operation: str, stage: str) -> Iterator[None]:
        """Measure one stage of an operation, also when it fails."""
        start_s = self._clock.monotonic()
        try:
            yield
        finally:
            elapsed_s = self._clock.monotonic() - start_s
            self.stage_duration.observe(elapsed_s, self._driver, operation, stage)

    @contextmanager
    def publish(self) -> Iterator[None]:
        """Count one write of the pool; an exception is its outcome and goes on."""
        start_s = self._clock.monotonic()
        outcome = SUCCESS
        try:
            yield
        except Exception as error:
            outcome = reason_of(error)
            raise
        finally:
            self.publishes.inc(self._driver, outcome)
            self.publish_duration.observe(self._clock.monotonic() - start_s, self._driver, outcome)

    def publish_failed(self, operation: str) -> None:
        """A prepare or unprepare could not publish what it changed (upstream's
        ``publish_resources``).
        """
        self._errors[operation].inc(self._driver, "publish_resources")

    def claim_read(self, outcome: str = SUCCESS) -> None:
        """A claim was read from the API server; ``outcome`` is an error's reason otherwise."""
        self.claim_reads.inc(self._driver, outcome)

    def set_prepared(self, by_type: Mapping[str, int]) -> None:
        """How many devices are prepared, by type; a type not named has none."""
        counts = dict.fromkeys(self._device_types, 0) | dict(by_type)
        self.prepared.replace({(self._node, self._driver, t): n for t, n in counts.items()})

    def _succeeded(self, operation: str, elapsed_s: float) -> None:
        self.requests.inc(self._driver, operation)
        self.request_duration.observe(elapsed_s, self._driver, operation)
        self.operations.inc(self._driver, operation, SUCCESS)
        self.operation_duration.observe(elapsed_s, self._driver, operation, SUCCESS)

    def _failed(self, operation: str, error: Exception, elapsed_s: float) -> None:
        is_lock = isinstance(error, LockTimeoutError)
        error_type = "lock_acquire" if is_lock else f"{operation}_devices"
        self._errors[operation].inc(self._driver, error_type)
        self.operations.inc(self._driver, operation, reason_of(error))
        self.operation_duration.observe(elapsed_s, self._driver, operation, reason_of(error))


def reason_of(error: BaseException) -> str:
    """The closed-list reason of an error, for labels; foreign ones are ``internal``."""
    return error.reason if isinstance(error, NvdraError) else NvdraError.reason


def add_process_metrics(
    registry: Registry, clock: Clock, *, version: str, proc: Path = Path("/proc")
) -> None:
    """Add build info and the usual ``process_*`` metrics, read at each scrape."""
    build = registry.gauge(
        "nvidia_dra_build_info", "Always 1; the release is a label", ("version",)
    )
    build.set(1, version)
    started = registry.gauge("process_start_time_seconds", "Start, seconds since the epoch")
    started.set(clock.wall())
    cpu = registry.counter("process_cpu_seconds_total", "CPU time used, user and system")
    rss = registry.gauge("process_resident_memory_bytes", "Resident memory")
    fds = registry.gauge("process_open_fds", "Open file descriptors")
    threads = registry.gauge("process_threads", "Threads of the interpreter")

    def refresh() -> None:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        cpu.inc(by=usage.ru_utime + usage.ru_stime - cpu.value())
        pages = (proc / "self/statm").read_text(encoding="ascii").split()[1]
        rss.set(int(pages) * resource.getpagesize())
        fds.set(sum(1 for _ in (proc / "self/fd").iterdir()))
        threads.set(threading.active_count())

    registry.before_render(refresh)
