"""The work queue on a fake clock: client-go's semantics."""

from __future__ import annotations

import threading

import pytest

from nvdra_cluster.control.workqueue import WorkQueue
from nvdra_core.kube.retry import Backoff
from tests.fakes.clock import FakeClock

FIRST_S, LIMIT_S = 1.0, 8.0


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def queue(clock: FakeClock) -> WorkQueue[str]:
    backoff = Backoff(first_s=FIRST_S, limit_s=LIMIT_S, random=lambda: 1.0)
    return WorkQueue(clock.monotonic, backoff)


def test_add_keeps_order_and_drops_duplicates(queue: WorkQueue[str]):
    queue.add("b", "a")
    queue.add("b")
    assert len(queue) == 2
    assert queue.get(10) == ["b", "a"]
    assert queue.get(10) == []


def test_get_returns_at_most_limit(queue: WorkQueue[str]):
    queue.add("a", "b", "c")
    assert queue.get(2) == ["a", "b"]
    assert queue.get(2) == ["c"]


def test_key_added_while_processed_returns_after_done(queue: WorkQueue[str]):
    queue.add("a")
    queue.get(1)
    queue.add("a")
    queue.add("a")
    assert queue.get(1) == []
    queue.done("a")
    assert queue.get(1) == ["a"]
    queue.done("a")
    assert queue.is_idle()


def test_delayed_key_is_ready_at_its_time(queue: WorkQueue[str], clock: FakeClock):
    queue.add_after("a", 5.0)
    clock.advance(4.9)
    assert queue.get(1) == []
    assert not queue.is_idle()
    clock.advance(0.1)
    assert queue.wait(0.0)
    assert queue.get(1) == ["a"]


def test_delay_of_zero_adds_at_once(queue: WorkQueue[str]):
    queue.add_after("a", 0.0)
    assert queue.get(1) == ["a"]


def test_earliest_of_two_delays_wins(queue: WorkQueue[str], clock: FakeClock):
    queue.add_after("a", 5.0)
    queue.add_after("a", 2.0)
    queue.add_after("a", 9.0)
    clock.advance(2.0)
    assert queue.get(1) == ["a"]
    queue.done("a")
    clock.advance(10.0)
    assert queue.get(1) == []


def test_delay_that_ends_while_processed_returns_after_done(
    queue: WorkQueue[str], clock: FakeClock
):
    queue.add("a")
    queue.get(1)
    queue.add_after("a", 1.0)
    clock.advance(1.0)
    assert queue.get(1) == []
    queue.done("a")
    assert queue.get(1) == ["a"]


def test_failures_back_off_exponentially_per_key(queue: WorkQueue[str]):
    assert [queue.add_rate_limited("a") for _ in range(5)] == [1.0, 2.0, 4.0, 8.0, 8.0]
    assert queue.add_rate_limited("b") == FIRST_S


def test_forget_resets_backoff(queue: WorkQueue[str]):
    queue.add_rate_limited("a")
    queue.add_rate_limited("a")
    queue.forget("a")
    assert queue.add_rate_limited("a") == FIRST_S


def test_retry_after_of_server_is_minimum(queue: WorkQueue[str], clock: FakeClock):
    assert queue.add_rate_limited("a", 30.0) == 30.0
    clock.advance(29.0)
    assert queue.get(1) == []
    clock.advance(1.0)
    assert queue.get(1) == ["a"]


def test_key_that_waits_for_retry_can_be_added_at_once(queue: WorkQueue[str]):
    queue.add_rate_limited("a")
    assert queue.is_idle()
    queue.add("a")
    assert queue.get(1) == ["a"]


def test_shut_down_takes_no_keys_and_ends_waits(queue: WorkQueue[str]):
    thread = threading.Thread(target=queue.wait, args=(60.0,))
    thread.start()
    queue.shut_down()
    thread.join(10.0)
    assert not thread.is_alive()
    queue.add("a")
    queue.add_after("b", 1.0)
    assert queue.get(2) == []
    assert not queue.wait(60.0)


def test_add_ends_wait(queue: WorkQueue[str]):
    found: list[bool] = []
    thread = threading.Thread(target=lambda: found.append(queue.wait(60.0)))
    thread.start()
    queue.add("a")
    thread.join(10.0)
    assert found == [True]
