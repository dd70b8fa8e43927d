"""Locks: exclusive, fair, deadline aware, and free of deadlocks."""

import random
import threading

import pytest

from nvdra_core.errors import LockTimeoutError
from nvdra_core.runtime.clock import Deadline, SystemClock
from nvdra_node.kubeletplugin.claims.locks import Locks
from tests.fakes.clock import FakeClock

CLOCK = SystemClock()


def deadline(seconds=5.0):
    return Deadline(seconds, CLOCK)


def start(function):
    thread = threading.Thread(target=function)
    thread.start()
    return thread


def wait_queued(locks, count):
    while len(locks._queue) < count:
        CLOCK.wait(threading.Event(), 0.001)


def test_disjoint_sets_are_held_together():
    locks = Locks(CLOCK)
    with locks.held(["a"], "one", deadline()), locks.held(["b", "c"], "two", deadline()):
        pass


def test_empty_set_never_waits():
    locks = Locks(CLOCK)
    with locks.held([], "one", deadline(0)), locks.held([], "two", deadline(0)):
        pass


def test_timeout_error_names_the_holder():
    clock = FakeClock()
    locks = Locks(clock)
    with (
        locks.held(["gpu:1", "gpu:2"], "ns/first", Deadline(5, clock)),
        pytest.raises(LockTimeoutError, match=r"ns/second: .*gpu:2, held by ns/first"),
        locks.held(["gpu:2", "gpu:3"], "ns/second", Deadline(5, clock)),
    ):
        pass
    with locks.held(["gpu:2", "gpu:3"], "ns/third", Deadline(0, clock)):
        pass


def test_error_inside_releases():
    locks = Locks(CLOCK)
    with pytest.raises(ZeroDivisionError), locks.held(["a"], "one", deadline()):
        raise ZeroDivisionError
    with locks.held(["a"], "two", deadline(0)):
        pass


def test_keys_are_granted_in_order_of_arrival():
    locks = Locks(CLOCK)
    order = []

    def take(name, keys):
        with locks.held(keys, name, deadline()):
            order.append(name)

    with locks.held(["a"], "holder", deadline()):
        threads = []
        # "wide" wants a and b; "late" wants only b, which is free, and yet comes after "wide".
        for count, (name, keys) in enumerate(
            [("first", ["a"]), ("wide", ["a", "b"]), ("late", ["b"])], start=1
        ):
            threads.append(start(lambda name=name, keys=keys: take(name, keys)))
            wait_queued(locks, count)
    for thread in threads:
        thread.join(60)
    assert order.index("wide") < order.index("late")
    assert order[0] == "first"


def test_timeout_unblocks_those_queued_behind():
    locks = Locks(CLOCK)
    got = threading.Event()

    def behind():
        with locks.held(["b"], "behind", deadline()):
            got.set()

    def impatient():
        with pytest.raises(LockTimeoutError), locks.held(["a", "b"], "impatient", deadline(0.05)):
            pass

    with locks.held(["a"], "holder", deadline()):
        one = start(impatient)
        wait_queued(locks, 1)
        two = start(behind)
        assert got.wait(60)
        one.join(60)
        two.join(60)


def test_random_sets_are_exclusive_and_all_finish():
    locks = Locks(CLOCK)
    holders = dict.fromkeys("abcd", 0)
    failures = []

    def work(seed):
        rng = random.Random(seed)
        for _ in range(60):
            keys = rng.sample("abcd", rng.randint(1, 3))
            with locks.held(keys, str(seed), deadline(20)):
                for key in keys:
                    holders[key] += 1
                    if holders[key] != 1:
                        failures.append(key)
                for key in keys:
                    holders[key] -= 1

    threads = [start(lambda seed=seed: work(seed)) for seed in range(8)]
    for thread in threads:
        thread.join(30)
    assert not failures
    assert locks._owners == {}
    assert locks._queue == []
