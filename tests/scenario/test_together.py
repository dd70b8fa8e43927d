"""Several calls at the same time: for different claims, for the same claim, and against each other."""

import threading
from typing import Any

import pytest

from nvdra_core.errors import DeviceConflictError, LockTimeoutError
from nvdra_core.runtime.clock import SystemClock
from tests.beds.memory.claim_world import WITH_EFFECTS, World, a_claim


class TestTogether:
    @pytest.fixture
    def world(self):
        return World(clock=SystemClock())

    def together(self, *calls):
        """Run all calls at the same time; what each returned or raised."""
        results: list[Any] = [None] * len(calls)
        barrier = threading.Barrier(len(calls))

        def run(index, call):
            barrier.wait(60)
            try:
                results[index] = call()
            except Exception as error:  # noqa: BLE001 - handed to the test
                results[index] = error

        threads = [threading.Thread(target=run, args=pair) for pair in enumerate(calls)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        return results

    def test_eight_concurrent_claims_are_prepared(self, world):
        claims = [a_claim(f"c{n}", devices=(f"gpu-{n}",), set={"mode": "x"}) for n in range(8)]
        results = self.together(*(lambda c=c: world.prepare(c) for c in claims))
        assert [devices[0].device for devices in results] == [f"gpu-{n}" for n in range(8)]
        self.together(*(lambda c=c: world.unprepare(c) for c in claims))
        world.assert_clean()

    def test_concurrent_prepares_of_a_claim_apply_once(self, world):
        for _ in range(20):
            results = self.together(*[lambda: world.prepare(WITH_EFFECTS)] * 3)
            assert results[0] == results[1] == results[2] == world.prepare(WITH_EFFECTS)
            assert world.faults.log.count("apply gpu-0/mode") == 1
            world.unprepare(WITH_EFFECTS)
            world.faults.clear()

    def test_one_of_two_concurrent_claims_gets_the_device(self, world):
        for _ in range(20):
            claims = [a_claim("c1"), a_claim("c2")]
            results = self.together(*(lambda c=c: world.prepare(c) for c in claims))
            assert sorted(isinstance(r, DeviceConflictError) for r in results) == [False, True]
            for claim in claims:
                world.unprepare(claim)
        world.assert_clean()

    def test_concurrent_unprepare_ends_complete_or_empty(self, world):
        for _ in range(50):
            self.together(
                lambda: world.prepare(WITH_EFFECTS), lambda: world.unprepare(WITH_EFFECTS)
            )
            if world.deps.records.get("c1") is None:
                world.assert_clean()
            else:
                world.assert_prepared(WITH_EFFECTS)
                world.unprepare(WITH_EFFECTS)

    def test_slow_claim_blocks_only_its_device_and_is_named(self, world):
        inside, go_on = threading.Event(), threading.Event()

        def hold_up():
            inside.set()
            go_on.wait(60)

        world.machine.on_apply = hold_up
        slow = threading.Thread(target=lambda: world.prepare(WITH_EFFECTS))
        slow.start()
        inside.wait(60)
        world.prepare(a_claim("c2", devices=("gpu-1",)))
        with pytest.raises(LockTimeoutError, match=r"held by ns/claim-c1"):
            world.prepare(a_claim("c3"), timeout_s=0.02)
        with pytest.raises(LockTimeoutError, match=r"claim:c1, held by ns/claim-c1"):
            world.prepare(WITH_EFFECTS, timeout_s=0.02)
        go_on.set()
        slow.join(60)
        world.assert_prepared(WITH_EFFECTS)
