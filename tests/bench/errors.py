"""The one error of the benchmarks: what could not be measured, and why."""

from __future__ import annotations


class BenchError(Exception):
    """A part of the benchmark could not be built, started or asked, or what is measured gave a wrong answer."""
