"""Hundreds of calls at once, as after a reboot or at the start of a job: all are answered, none starves another."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from nvdra_core.runtime.clock import Deadline, SystemClock
from nvdra_node.kubeletplugin.kubelet.service import MAX_CLAIM_THREADS
from nvdra_node.rpc.server import MAX_CALLS
from tests.beds.memory.gpu_node import GpuNode, a_claim
from tests.beds.services.kubelet import Kubelet, Plugin, connect
from tests.beds.services.plugin import CLOCK, DRIVER, TestPlugin
from tests.lib.waits import until

PREPARE, UNPREPARE = "NodePrepareResources", "NodeUnprepareResources"
MANY = 600
"""More than a prepare and an unprepare for each pod of a full node."""


def slow(number: int) -> tuple[str, str, str]:
    return ("ns", f"slow-{number}", f"uid-{number}")


def errors(calls: list[Any]) -> list[str]:
    """The texts of all errors in the responses."""
    responses = [call.result() for call in calls]
    return [entry.error for r in responses for entry in r.claims.values() if entry.error]


@contextmanager
def a_node(directory: Path) -> Iterator[tuple[GpuNode, Plugin]]:
    """The GPU plugin's own transaction behind real sockets."""
    node = GpuNode(clock=SystemClock())
    plugin = TestPlugin(directory, transaction=node.transaction)
    plugin.start()
    kubelet = Kubelet(plugin.paths.registry_dir).register(DRIVER)
    yield node, kubelet
    kubelet.close()
    plugin.stop()


def test_100_pods_sharing_a_claim_are_prepared(directory: Path) -> None:
    with a_node(directory) as (node, kubelet):
        claim = a_claim("shared")
        node.claims.add(claim)
        ref = (claim.ref.namespace, claim.ref.name, claim.ref.uid)
        assert errors([kubelet.begin(PREPARE, ref) for _ in range(100)]) == []
        assert node.cdi_spec("shared") is not None
        assert errors([kubelet.begin(UNPREPARE, ref) for _ in range(100)]) == []
        assert node.deps.records.all() == ()


def test_100_concurrent_claims_are_prepared_and_unprepared(directory: Path) -> None:
    with a_node(directory) as (node, kubelet):
        claims = [a_claim(f"c{number}", admin=True) for number in range(100)]
        refs = [(c.ref.namespace, c.ref.name, c.ref.uid) for c in claims]
        for claim in claims:
            node.claims.add(claim)
        assert errors([kubelet.begin(PREPARE, ref) for ref in refs]) == []
        assert len(node.deps.records.all()) == 100
        assert errors([kubelet.begin(UNPREPARE, ref) for ref in refs]) == []
        assert node.deps.records.all() == ()


def test_waiting_prepares_starve_no_other_call(registered: Plugin, plugin: TestPlugin) -> None:
    endpoint = Path(registered.info.endpoint)
    with ExitStack() as stack:
        channels = [stack.enter_context(connect(endpoint)) for _ in range(10)]
        calls = [registered.begin(PREPARE, slow(n), channel=channels[n % 10]) for n in range(MANY)]
        until(lambda: plugin.ledger.running == MANY)
        limit = Deadline(10.0, CLOCK)
        streams = [stack.enter_context(registered.health()) for _ in range(12)]
        for stream in streams:
            assert len(next(stream).devices) == 1
        assert registered.unprepare(("ns", "a", "uid-a")).errors == {}
        plugin.selfcheck()
        limit.check("other calls during waiting prepares")
        plugin.ledger.gate.set()
        assert errors(calls) == []


@pytest.mark.parametrize("count", [3, 200])
def test_calls_of_12_claims_get_all_results(
    registered: Plugin, plugin: TestPlugin, count: int
) -> None:
    calls = [
        registered.begin(PREPARE, *(("ns", "a", f"uid-{number}-{n}") for n in range(12)))
        for number in range(count)
    ]
    assert errors(calls) == []
    assert len(plugin.ledger.prepared) == 12 * count


def test_waiting_claims_starve_no_call_of_several_claims(
    registered: Plugin, plugin: TestPlugin
) -> None:
    count = MAX_CLAIM_THREADS // 8 + 2
    calls = [
        registered.begin(PREPARE, *(slow(8 * number + n) for n in range(8)))
        for number in range(count)
    ]
    until(lambda: plugin.ledger.running >= MAX_CLAIM_THREADS)
    others = ("ns", "a", "uid-a"), ("ns", "b", "uid-b")
    assert set(registered.prepare(*others, timeout_s=10.0).devices) == {"uid-a", "uid-b"}
    assert registered.unprepare(*others, timeout_s=10.0).errors == {}
    plugin.ledger.gate.set()
    assert errors(calls) == []
    assert len(plugin.ledger.prepared) == 8 * count


def test_call_waits_while_no_thread_can_be_started(registered: Plugin, plugin: TestPlugin) -> None:
    first = registered.begin(PREPARE, slow(1))
    until(lambda: plugin.ledger.running == 1)
    timer = threading.Timer(1.0, plugin.ledger.gate.set)
    timer.start()
    usual = threading.stack_size(1 << 50)  # more than a process can address
    try:
        assert set(registered.prepare(("ns", "a", "uid-a"), timeout_s=20.0).devices) == {"uid-a"}
    finally:
        threading.stack_size(usual)
    assert errors([first]) == []
    timer.join()


def test_calls_above_the_limit_are_refused_by_grpc(registered: Plugin, plugin: TestPlugin) -> None:
    calls = [registered.begin(PREPARE, slow(number)) for number in range(MAX_CALLS + 20)]
    until(lambda: sum(call.done() for call in calls) >= 20)
    # grpcio drops a refused call at once, so some clients see its end and not its status.
    refused = {grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.CANCELLED}
    assert {call.code() for call in calls if call.done()} <= refused
    plugin.ledger.gate.set()
    answered = [call for call in calls if call.exception() is None]
    assert {call.code() for call in calls if call.exception() is not None} <= refused
    # grpcio counts refused calls until they are dropped, and then refuses some more.
    assert MAX_CALLS // 2 <= len(answered) <= MAX_CALLS + 10 and errors(answered) == []


def rss_kb(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Rss:"))


def test_1000_waiting_calls_take_at_most_60_mb(directory: Path) -> None:
    argv = [sys.executable, "-m", "tests.beds.services.serving", str(directory)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdin is not None
        process.stdout.readline()
        kubelet = Kubelet(directory / "registry").register(DRIVER)
        kubelet.prepare(("ns", "a", "uid-a"))
        before_kb = rss_kb(process.pid)
        tasks = Path(f"/proc/{process.pid}/task")
        calls = [kubelet.begin(PREPARE, slow(number)) for number in range(1000)]
        until(lambda: len(list(tasks.iterdir())) > 1000)
        kubelet.unprepare(("ns", "a", "uid-a"))
        assert rss_kb(process.pid) - before_kb < 60_000
        (directory / "go").touch()
        assert errors(calls) == []
        kubelet.close()
        process.stdin.close()
