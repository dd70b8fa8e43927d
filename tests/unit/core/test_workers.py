"""Supervised threads, heartbeats, and notifications to systemd."""

import threading

import pytest

from nvdra_core.errors import ConfigError, HostError
from nvdra_core.runtime.clock import Deadline, SystemClock
from nvdra_core.runtime.systemd import Notifier, watchdog_interval_s
from nvdra_core.runtime.workers import Workers
from tests.fakes.clock import FakeClock


def test_failed_worker_wakes_the_service_and_is_a_problem():
    workers, woken = Workers(FakeClock()), threading.Event()
    workers.on_failure(woken.set)

    def crash() -> None:
        raise HostError("disk is gone")

    workers.spawn("a", crash)
    assert woken.wait(60)
    assert isinstance(workers.failure, HostError)
    assert workers.problems() == ["a worker failed: disk is gone"]


def test_first_failure_is_kept():
    workers = Workers(FakeClock())

    def crash(text: str) -> None:
        raise HostError(text)

    workers.spawn("a", lambda: crash("first")).join()
    workers.spawn("b", lambda: crash("second")).join()
    assert str(workers.failure) == "first"


def test_worker_that_ends_while_stopping_is_no_failure():
    workers = Workers(FakeClock())

    def loop() -> None:
        workers.stopping.wait()

    workers.spawn("a", loop)
    workers.stopping.set()
    assert workers.join(Deadline(60, SystemClock())) == []
    assert workers.failure is None and workers.problems() == []


def test_silent_loop_is_a_problem_until_its_next_beat():
    clock = FakeClock()
    workers = Workers(clock)
    heartbeat = workers.heartbeat("publisher", 60)
    clock.advance(60)
    assert workers.problems() == []
    clock.advance(1)
    assert workers.problems() == ["publisher: silent for 61 s, allowed are 60 s"]
    heartbeat.beat()
    assert workers.problems() == []


def test_notifications_follow_sd_notify_in_one_line():
    sent: list[str] = []
    notifier = Notifier(sent.append)
    notifier.ready("running")
    notifier.status("bad\nthing \u2713")
    notifier.reloading(1.5)
    notifier.stopping("signal")
    notifier.watchdog()
    assert sent == [
        "READY=1\nSTATUS=running",
        "STATUS=bad thing \\u2713",
        "RELOADING=1\nMONOTONIC_USEC=1500000\nSTATUS=reloading",
        "STOPPING=1\nSTATUS=signal",
        "WATCHDOG=1",
    ]


def test_failed_notification_raises_nothing():
    def fail(message: str) -> None:
        raise BlockingIOError("full")

    Notifier(fail).watchdog()


@pytest.mark.parametrize(
    ("usec", "pid", "interval_s"),
    [("30000000", "", 10.0), ("30000000", "7", 10.0), ("30000000", "8", None), ("", "", None)],
)
def test_watchdog_interval_is_a_third(usec, pid, interval_s):
    assert watchdog_interval_s(usec, pid, 7) == interval_s


@pytest.mark.parametrize("usec", ["x", "0", "-1", "1.5", "\u0661"])
def test_malformed_watchdog_time_is_a_config_error(usec):
    with pytest.raises(ConfigError, match="WATCHDOG_USEC"):
        watchdog_interval_s(usec, "", 7)
