"""Counters, gauges and histograms of one process, and their text form for Prometheus.

The hot path adds to plain numbers under one lock. ``Registry.render`` writes the text exposition
format 0.0.4, which every scraper takes. Ours and not prometheus_client's, because importing that
costs each node 5 MB and 40 ms for what is fifty lines here; the tests read the output with
prometheus_client's own parser.
"""

from __future__ import annotations

import math
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Labels = tuple[str, ...]
Sample = tuple[str, Sequence[str], Labels, float]
"""Full name, label names, label values, value."""


class Metric:
    """One family of series. ``labels``: the names; each call gives the values in that order."""

    kind = "untyped"

    def __init__(self, name: str, help_text: str, labels: Sequence[str] = ()) -> None:
        self.name = name
        self.help = help_text
        self.labels = tuple(labels)
        self._lock = threading.Lock()

    def samples(self) -> Iterator[Sample]:
        """All series with their present values, in a stable order."""
        raise NotImplementedError

    def _require_labels(self, values: Labels) -> None:
        if len(values) != len(self.labels):
            raise ValueError(f"metric {self.name} has labels {self.labels}, got values {values}")


class _Scalar(Metric):
    """Counter and gauge: one number a series."""

    def __init__(self, name: str, help_text: str, labels: Sequence[str] = ()) -> None:
        super().__init__(name, help_text, labels)
        self._values: dict[Labels, float] = {}
        if not self.labels:
            self._values[()] = 0

    def seed(self, *values: str) -> None:
        """Make the series exist at 0, so that its first increase is visible as one."""
        self._add(values, 0)

    def value(self, *values: str) -> float:
        """The present value; 0 when the series does not exist."""
        with self._lock:
            return self._values.get(values, 0)

    def samples(self) -> Iterator[Sample]:
        """See Metric."""
        with self._lock:
            found = sorted(self._values.items())
        for values, number in found:
            yield self.name, self.labels, values, number

    def _add(self, values: Labels, amount: float) -> None:
        with self._lock:
            if values not in self._values:
                self._require_labels(values)
            self._values[values] = self._values.get(values, 0) + amount


class Counter(_Scalar):
    """A number that only grows."""

    kind = "counter"

    def inc(self, *values: str, by: float = 1) -> None:
        """Count something that happened."""
        self._add(values, by)


class Gauge(_Scalar):
    """A number that goes up and down."""

    kind = "gauge"

    def set(self, number: float, *values: str) -> None:
        """Say what it is now."""
        with self._lock:
            self._require_labels(values)
            self._values[values] = number

    def add(self, amount: float, *values: str) -> None:
        """Change it."""
        self._add(values, amount)

    def replace(self, numbers: Mapping[Labels, float]) -> None:
        """Say what all series are now; those not named are gone."""
        for values in numbers:
            self._require_labels(values)
        with self._lock:
            self._values = dict(numbers)


class Histogram(Metric):
    """How a measure is spread. ``buckets``: upper bounds, rising, without infinity."""

    kind = "histogram"

    def __init__(
        self,
        name: str,
        help_text: str,
        labels: Sequence[str] = (),
        *,
        buckets: Sequence[float],
    ) -> None:
        super().__init__(name, help_text, labels)
        self._bounds = tuple(buckets)
        self._counts: dict[Labels, list[int]] = {}
        self._sums: dict[Labels, float] = {}

    def seed(self, *values: str) -> None:
        """Make the series exist, empty."""
        with self._lock:
            self._series(values)

    def observe(self, measure: float, *values: str) -> None:
        """Count one measure, in the unit that the name ends with."""
        with self._lock:
            self._series(values)[bisect_left(self._bounds, measure)] += 1
            self._sums[values] += measure

    def count(self, *values: str) -> int:
        """How many measures there were."""
        with self._lock:
            return sum(self._counts.get(values, ()))

    def samples(self) -> Iterator[Sample]:
        """See Metric."""
        with self._lock:
            found = sorted((v, list(c), self._sums[v]) for v, c in self._counts.items())
        names = (*self.labels, "le")
        for values, counts, total in found:
            below = 0
            for bound, count in zip((*self._bounds, math.inf), counts, strict=True):
                below += count
                yield f"{self.name}_bucket", names, (*values, _number(bound)), below
            yield f"{self.name}_sum", self.labels, values, total
            yield f"{self.name}_count", self.labels, values, below

    def _series(self, values: Labels) -> list[int]:
        if values not in self._counts:
            self._require_labels(values)
            self._counts[values] = [0] * (len(self._bounds) + 1)
            self._sums[values] = 0.0
        return self._counts[values]


class Registry:
    """All metrics of a process, in the order they were added."""

    def __init__(self) -> None:
        self._metrics: dict[str, Metric] = {}
        self._refreshers: list[Callable[[], None]] = []
        self._lock = threading.Lock()
        self._rendering = threading.Lock()

    def counter(self, name: str, help_text: str, labels: Sequence[str] = ()) -> Counter:
        """Add a counter."""
        metric = Counter(name, help_text, labels)
        self._add(metric)
        return metric

    def gauge(self, name: str, help_text: str, labels: Sequence[str] = ()) -> Gauge:
        """Add a gauge."""
        metric = Gauge(name, help_text, labels)
        self._add(metric)
        return metric

    def histogram(
        self, name: str, help_text: str, labels: Sequence[str] = (), *, buckets: Sequence[float]
    ) -> Histogram:
        """Add a histogram."""
        metric = Histogram(name, help_text, labels, buckets=buckets)
        self._add(metric)
        return metric

    def before_render(self, refresh: Callable[[], None]) -> None:
        """Call ``refresh`` before each rendering: for gauges that are cheap to read and not worth
        keeping current.
        """
        with self._lock:
            self._refreshers.append(refresh)

    def render(self) -> bytes:
        """Everything as Prometheus text (``CONTENT_TYPE``)."""
        with self._lock:
            metrics, refreshers = list(self._metrics.values()), list(self._refreshers)
        lines: list[str] = []
        with self._rendering:  # two scrapes that bring one counter up to date would count twice
            for refresh in refreshers:
                refresh()
            for metric in metrics:
                lines += _family(metric)
        return ("\n".join(lines) + "\n").encode("utf-8", "backslashreplace")

    def _add(self, metric: Metric) -> None:
        with self._lock:
            if metric.name in self._metrics:
                raise ValueError(f"metric {metric.name} is there already")
            self._metrics[metric.name] = metric


def exponential_buckets(start: float, factor: float, count: int) -> tuple[float, ...]:
    """``count`` bounds, the first ``start``, each ``factor`` times the one before."""
    return tuple(start * factor**power for power in range(count))


def _family(metric: Metric) -> Iterable[str]:
    yield f"# HELP {metric.name} {_escape(metric.help)}"
    yield f"# TYPE {metric.name} {metric.kind}"
    for name, labels, values, number in metric.samples():
        pairs = ",".join(
            f'{label}="{_escape(value, quotes=True)}"'
            for label, value in zip(labels, values, strict=True)
        )
        yield f"{name}{{{pairs}}} {_number(number)}" if pairs else f"{name} {_number(number)}"


def _escape(text: str, *, quotes: bool = False) -> str:
    text = text.replace("\\", "\\\\").replace("\n", "\\n")
    return text.replace('"', '\\"') if quotes else text


def _number(number: float) -> str:
    if number == math.inf:
        return "+Inf"
    return str(int(number)) if float(number).is_integer() and abs(number) < 1e15 else repr(number)
