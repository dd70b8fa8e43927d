"""Watches, decisions and scrapes at the same time: the cache stays consistent."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable

from prometheus_client import CollectorRegistry, generate_latest

from nvdra_cluster.control.metrics import ControllerCollector
from nvdra_cluster.control.reconciler import Now, Reconciler
from nvdra_cluster.control.state.cache import Cache
from nvdra_cluster.decide.model import NodeView
from tests.unit.decide.views import SETTINGS, a_claim, a_domain, a_fabric_node

ROUNDS = 150
NODES = [f"tray-{number}" for number in range(12)]


def run_together(*bodies: Callable[[int], None]) -> list[Exception]:
    """Each in a thread of its own, ROUNDS times; what went wrong."""
    failures: list[Exception] = []

    def run(body: Callable[[int], None]) -> None:
        try:
            for number in range(ROUNDS):
                body(number)
        except Exception as error:  # noqa: BLE001 - handed to the test
            failures.append(error)

    threads = [threading.Thread(target=run, args=(body,)) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120.0)
    return failures


class Everybody:
    """All that touches the cache in a controller."""

    def __init__(self) -> None:
        self.cache, self.registry = Cache(), CollectorRegistry()
        self.registry.register(ControllerCollector(self.cache, lambda: True, lambda: None))
        self.reconciler = Reconciler(self.cache, SETTINGS, self.registry)

    def nodes(self, number: int) -> None:
        """A watch: all come, all go."""
        for name in NODES:
            self.cache.put_node(NodeView(name, f"uid-{name}"))
            self.cache.put_fabric(a_fabric_node(name))
        for name in NODES:
            self.cache.drop_fabric(name)

    def domains(self, number: int) -> None:
        """Another one."""
        for name in NODES:
            self.cache.put_domain(a_domain(f"u-{name}", name=name))
            self.cache.put_claim(a_claim(name, domain_uid=f"u-{name}", node=name))
        for name in NODES:
            self.cache.drop_claim(f"team/{name}")
            self.cache.drop_domain(f"team/{name}")

    def decisions(self, number: int) -> None:
        """The loop."""
        keys = self.cache.queue.get(1000)
        self.cache.queue.done(*keys)
        self.reconciler.decide(keys, Now(float(number), "2026-11-21T16:00:00Z"))

    def scrapes(self, number: int) -> None:
        """A thread of the endpoint."""
        generate_latest(self.registry)


def test_concurrent_watches_decisions_and_scrapes_are_safe():
    made = Everybody()
    before_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # switch threads at nearly every step
    try:
        assert run_together(made.nodes, made.domains, made.decisions, made.scrapes) == []
    finally:
        sys.setswitchinterval(before_s)
    assert b"decision_failures_total{" not in generate_latest(made.registry)
    cache = made.cache
    for left in (cache.fabrics, cache.domains, cache.claims):
        assert left == {}
    for index in (cache.in_clique, cache.claims_of, cache.claims_on):
        assert not any(index.get(key) for key in ("", *NODES, *(f"u-{name}" for name in NODES)))
