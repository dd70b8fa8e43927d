"""The Prometheus registry of one process, with build info and the usual ``process_*`` metrics.

Nothing uses prometheus_client's global registry: each service makes one here and passes it on.
"""

from __future__ import annotations

import threading

from prometheus_client import CollectorRegistry, Gauge, ProcessCollector, disable_created_metrics


def new_registry(version: str) -> CollectorRegistry:
    """A registry for the process of a service of this release."""
    disable_created_metrics()  # *_created series, which upstream does not have
    registry = CollectorRegistry()
    build = "nvidia_dra_build_info"
    Gauge(build, "Always 1; the release is a label", ("version",), registry=registry).labels(
        version
    ).set(1)
    ProcessCollector(registry=registry)
    threads = Gauge("process_threads", "Threads of the interpreter", registry=registry)
    threads.set_function(threading.active_count)
    return registry
