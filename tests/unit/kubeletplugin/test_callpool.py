"""Threads for calls: as many as are needed, never more than the limit, and none that is lost."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator

import pytest

from nvdra_core.runtime.clock import Deadline, SystemClock
from nvdra_node.rpc.callpool import KEPT_THREADS, CallLanes, CallPool, Laned, Submitted

WAIT_S = 30.0


@pytest.fixture
def pool() -> Iterator[CallPool]:
    made = CallPool(4, "call")
    yield made
    made.close()
    patience = Deadline(WAIT_S, SystemClock())
    while threads():
        patience.check("the pool's threads ended")


def end_of(call: Submitted) -> threading.Event:
    ended = threading.Event()
    call.add_done_callback(lambda _: ended.set())
    return ended


def threads() -> int:
    return sum(thread.name.startswith("call_") for thread in threading.enumerate())


def test_calls_that_block_do_not_keep_others_from_running(pool: CallPool) -> None:
    let_go = threading.Event()
    begun = threading.Barrier(4)

    def block() -> None:
        begun.wait(WAIT_S)
        let_go.wait(WAIT_S)

    for _ in range(3):
        pool.submit(block)
    begun.wait(WAIT_S)  # the fourth party is this thread, so all three run
    done = threading.Event()
    pool.submit(done.set)
    assert done.wait(WAIT_S)
    let_go.set()


def test_calls_above_the_limit_wait_in_order(pool: CallPool) -> None:
    let_go = threading.Event()
    order: list[int] = []
    for _ in range(4):
        pool.submit(let_go.wait, WAIT_S)
    last = threading.Event()
    for number in range(8):
        pool.submit(order.append, number)
    pool.submit(last.set)
    assert order == []
    assert threads() == 4
    let_go.set()
    assert last.wait(WAIT_S)
    assert sorted(order) == list(range(8))


def test_one_thread_does_for_calls_that_come_one_after_the_other(pool: CallPool) -> None:
    for _ in range(20):
        assert end_of(pool.submit(int)).wait(WAIT_S)
        patience = Deadline(WAIT_S, SystemClock())
        while pool._free < pool._threads:  # a thread is free a moment after its call has ended
            patience.check("its thread is free")
    assert pool._threads == 1


def test_many_submitters_at_once_lose_no_call(pool: CallPool) -> None:
    ran = threading.Semaphore(0)
    called_back = threading.Semaphore(0)

    def submit() -> None:
        for _ in range(200):
            pool.submit(ran.release).add_done_callback(lambda _: called_back.release())

    submitters = [threading.Thread(target=submit) for _ in range(8)]
    for submitter in submitters:
        submitter.start()
    for _ in range(1600):
        assert ran.acquire(timeout=WAIT_S)
        assert called_back.acquire(timeout=WAIT_S)
    assert threads() <= 4


def test_a_callback_that_comes_late_is_called_at_once(pool: CallPool) -> None:
    call = pool.submit(int)
    assert end_of(call).wait(WAIT_S)
    seen: list[object] = []
    call.add_done_callback(seen.append)
    assert seen == [call]


def test_a_call_that_fails_costs_no_thread_and_is_called_back(pool: CallPool) -> None:
    for _ in range(8):
        assert end_of(pool.submit(int, "no number")).wait(WAIT_S)
    done = threading.Event()
    pool.submit(done.set)
    assert done.wait(WAIT_S)


def test_after_the_end_nothing_is_taken_and_no_thread_stays() -> None:
    pool = CallPool(4, "call")
    let_go = threading.Event()
    for _ in range(4):
        pool.submit(let_go.wait, WAIT_S)
    dropped: list[int] = []
    pool.submit(dropped.append, 1)
    pool.close()
    with pytest.raises(RuntimeError, match="ended"):
        pool.submit(int)
    ours = [thread for thread in threading.enumerate() if thread.name.startswith("call_")]
    let_go.set()
    for thread in ours:
        thread.join(WAIT_S)
    assert threads() == 0
    assert dropped == []


def test_threads_without_calls_end_but_for_a_few() -> None:
    pool = CallPool(20, "call", idle_s=0.2)
    let_go = threading.Event()
    calls = [end_of(pool.submit(let_go.wait, WAIT_S)) for _ in range(20)]
    assert threads() == 20
    let_go.set()
    assert all(ended.wait(WAIT_S) for ended in calls)
    patience = Deadline(WAIT_S, SystemClock())
    while threads() > KEPT_THREADS:
        patience.check("threads end")
    # The others take calls, and more are started when they are needed.
    barrier = threading.Barrier(KEPT_THREADS + 3)
    for _ in range(KEPT_THREADS + 2):
        pool.submit(barrier.wait, WAIT_S)
    barrier.wait(WAIT_S)
    pool.close()


def test_a_full_lane_holds_up_no_other() -> None:
    lanes = CallLanes({"wait": 2, "": 1}, "call")
    let_go, done = threading.Event(), threading.Event()
    waits = Laned("wait", lambda request, context: let_go.wait(WAIT_S))
    for _ in range(5):
        lanes.submit(lambda handler: handler(None, None), waits)
    lanes.submit(done.set)
    assert done.wait(WAIT_S)
    assert sum(t.name.startswith("call-wait_") for t in threading.enumerate()) == 2
    let_go.set()
    lanes.close()


def test_a_lane_without_a_limit_is_the_default_lane() -> None:
    lanes = CallLanes({"": 1}, "call")
    done = threading.Event()
    lanes.submit(lambda handler: handler(None, None), Laned("else", lambda *_: done.set()))
    assert done.wait(WAIT_S)
    lanes.close()


def test_call_waits_for_a_thread_when_no_new_one_starts(pool: CallPool) -> None:
    let_go, done = threading.Event(), threading.Event()
    pool.submit(let_go.wait, WAIT_S)
    usual = threading.stack_size(1 << 50)  # more than a process can address: no thread starts
    try:
        pool.submit(done.set)
    finally:
        threading.stack_size(usual)
    assert not done.wait(0.1)
    let_go.set()
    assert done.wait(WAIT_S)


def test_end_while_a_thread_takes_a_call_does_not_block() -> None:
    has_ended = threading.Event()

    def pause(frame: object, event: str, arg: object) -> None:
        if event == "c_return":  # other threads run after each step of this one
            time.sleep(0.002)

    def end_often() -> None:
        for _ in range(20):
            pool = CallPool(1, "call")
            assert end_of(pool.submit(int)).wait(WAIT_S)
            pool.submit(int)
            sys.setprofile(pause)
            pool.close()
            sys.setprofile(None)
        has_ended.set()

    threading.Thread(target=end_often, daemon=True).start()
    assert has_ended.wait(WAIT_S)
