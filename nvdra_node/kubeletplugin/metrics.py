"""Counters and histograms of a kubelet plugin: upstream's names, labels and buckets, and ours.

Upstream's request families count successes only; ``nvidia_dra_operations_total`` and
``nvidia_dra_operation_duration_seconds`` have every outcome, with finer buckets.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from nvdra_core.errors import LockTimeoutError, NvdraError
from nvdra_core.runtime.clock import Clock

PREPARE = "prepare"
UNPREPARE = "unprepare"
OPERATIONS = (PREPARE, UNPREPARE)
SUCCESS = "success"
UPSTREAM_BUCKETS = tuple(0.05 * 2**power for power in range(9))
"""0.05 s to 12.8 s."""
FINE_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)  # fmt: skip
_REQUEST = ("driver", "operation")
_OUTCOME = ("driver", "operation", "outcome")


class PluginMetrics:
    """Events of one driver on one node, counted as they happen. Upstream's series exist at 0 from the start."""

    def __init__(self, registry: CollectorRegistry, clock: Clock, driver: str) -> None:
        self._registry = registry
        self._clock = clock
        self._driver = driver
        self._add_upstream_families()
        self._add_own_families()
        self._create_series()

    def _add_upstream_families(self) -> None:
        self._requests = self._counter(
            "nvidia_dra_requests_total", "Claims prepared or unprepared successfully", _REQUEST
        )
        self._request_duration = Histogram(
            "nvidia_dra_request_duration_seconds",
            "Time of successful prepares and unprepares, with waiting for locks",
            _REQUEST,
            buckets=UPSTREAM_BUCKETS,
            registry=self._registry,
        )
        self._inflight = Gauge(
            "nvidia_dra_requests_inflight",
            "Claims being prepared or unprepared now",
            _REQUEST,
            registry=self._registry,
        )
        self._errors = {
            operation: self._counter(
                f"nvidia_dra_node_{operation}_errors_total",
                f"Failed attempts to {operation}",
                ("driver", "error_type"),
            )
            for operation in OPERATIONS
        }

    def _add_own_families(self) -> None:
        self._operations = self._counter(
            "nvidia_dra_operations_total", "Prepares and unprepares by outcome", _OUTCOME
        )
        self._operation_duration = self._histogram(
            "nvidia_dra_operation_duration_seconds",
            "Time of prepares and unprepares by outcome, with waiting for locks",
            _OUTCOME,
        )
        self._stage_duration = self._histogram(
            "nvidia_dra_stage_duration_seconds",
            "Time of each stage of a prepare or unprepare",
            ("driver", "operation", "stage"),
        )
        outcome = ("driver", "outcome")
        self._publishes = self._counter(
            "nvidia_dra_slice_publishes_total", "Writes of the pool of ResourceSlices", outcome
        )
        self._publish_duration = self._histogram(
            "nvidia_dra_slice_publish_duration_seconds",
            "Time to write the pool of ResourceSlices",
            outcome,
        )
        self._claim_reads = self._counter(
            "nvidia_dra_claim_reads_total", "ResourceClaims read from the API server", outcome
        )

    def _counter(self, name: str, text: str, labels: tuple[str, ...]) -> Counter:
        return Counter(name, text, labels, registry=self._registry)

    def _histogram(self, name: str, text: str, labels: tuple[str, ...]) -> Histogram:
        return Histogram(name, text, labels, buckets=FINE_BUCKETS, registry=self._registry)

    def _create_series(self) -> None:
        """Expose 0 before the first event, so that ``rate()`` sees it."""
        for operation in OPERATIONS:
            for by_request in (self._requests, self._request_duration, self._inflight):
                by_request.labels(self._driver, operation)
            for by_outcome in (self._operations, self._operation_duration):
                by_outcome.labels(self._driver, operation, SUCCESS)
            for error_type in ("lock_acquire", f"{operation}_devices", "publish_resources"):
                self._errors[operation].labels(self._driver, error_type)
        self._publishes.labels(self._driver, SUCCESS)
        self._claim_reads.labels(self._driver, SUCCESS)

    @contextmanager
    def operation(self, operation: str) -> Iterator[None]:
        """Count one claim's prepare or unprepare; an exception is its outcome and is raised again."""
        start_s = self._clock.monotonic()
        with self._inflight.labels(self._driver, operation).track_inprogress():
            try:
                yield
            except Exception as error:
                self._failed(operation, error, self._clock.monotonic() - start_s)
                raise
            self._succeeded(operation, self._clock.monotonic() - start_s)

    @contextmanager
    def stage(self, operation: str, stage: str) -> Iterator[None]:
        """Measure one stage of an operation, also when it fails."""
        start_s = self._clock.monotonic()
        try:
            yield
        finally:
            elapsed_s = self._clock.monotonic() - start_s
            self._stage_duration.labels(self._driver, operation, stage).observe(elapsed_s)

    @contextmanager
    def publish(self) -> Iterator[None]:
        """Count one write of the pool; an exception is its outcome and is raised again."""
        start_s = self._clock.monotonic()
        outcome = SUCCESS
        try:
            yield
        except Exception as error:
            outcome = _reason_of(error)
            raise
        finally:
            elapsed_s = self._clock.monotonic() - start_s
            self._publishes.labels(self._driver, outcome).inc()
            self._publish_duration.labels(self._driver, outcome).observe(elapsed_s)

    def claim_read(self, outcome: str = SUCCESS) -> None:
        """Count one read of a claim from the API server; ``outcome``: the error's reason if it failed."""
        self._claim_reads.labels(self._driver, outcome).inc()

    def _succeeded(self, operation: str, elapsed_s: float) -> None:
        self._requests.labels(self._driver, operation).inc()
        self._request_duration.labels(self._driver, operation).observe(elapsed_s)
        self._finished(operation, SUCCESS, elapsed_s)

    def _failed(self, operation: str, error: Exception, elapsed_s: float) -> None:
        is_lock = isinstance(error, LockTimeoutError)
        error_type = "lock_acquire" if is_lock else f"{operation}_devices"
        self._errors[operation].labels(self._driver, error_type).inc()
        self._finished(operation, _reason_of(error), elapsed_s)

    def _finished(self, operation: str, outcome: str, elapsed_s: float) -> None:
        self._operations.labels(self._driver, operation, outcome).inc()
        self._operation_duration.labels(self._driver, operation, outcome).observe(elapsed_s)


def _reason_of(error: BaseException) -> str:
    """The error's reason, from the closed list that labels may have; ``internal`` for foreign errors."""
    return error.reason if isinstance(error, NvdraError) else NvdraError.reason
