"""A small service for test_service. Its arguments name the faults; it writes a word per event to stdout."""

import os
import sys
import threading
import time

from nvdra_core.errors import ConfigError, HostError
from nvdra_core.runtime import log
from nvdra_core.runtime.clock import Deadline, SystemClock
from nvdra_core.runtime.service import Service
from nvdra_core.runtime.systemd import Notifier, watchdog_interval_s
from nvdra_core.runtime.workers import Workers

FAULTS = set(sys.argv[1:])
CLOCK = SystemClock()
WORKERS = Workers(CLOCK)


def say(word: str) -> None:
    os.write(1, f"{word}\n".encode())  # one call, so that words of threads do not mix


class Sample:
    """A component with one worker."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.crash = threading.Event()

    def start(self) -> None:
        if f"start-{self.name}" in FAULTS:
            raise HostError(f"{self.name} cannot start")
        if f"config-{self.name}" in FAULTS:
            raise ConfigError(f"{self.name} is configured wrong")
        WORKERS.spawn(f"{self.name}-loop", self._loop)
        for fault, error in (
            ("thread", RuntimeError(f"{self.name} broke")),
            ("exit", SystemExit(7)),
        ):
            if f"{fault}-{self.name}" in FAULTS:
                threading.Thread(target=self._raise, args=(error,), name=f"{self.name}-own").start()
        say(f"start {self.name}")

    def stop(self, deadline: Deadline) -> None:
        say(f"stop {self.name}")
        if f"stop-{self.name}" in FAULTS:
            raise HostError(f"{self.name} cannot stop")

    @staticmethod
    def _raise(error: BaseException) -> None:
        raise error

    def _loop(self) -> None:
        if f"crash-{self.name}" in FAULTS:
            raise RuntimeError(f"{self.name} crashed")
        if f"return-{self.name}" in FAULTS:
            return
        if f"hang-{self.name}" in FAULTS:
            threading.Event().wait()
        while f"churn-{self.name}" in FAULTS and not WORKERS.stopping.is_set():
            many = [threading.Thread(target=deep, args=(20,)) for _ in range(20)]
            for thread in many:
                thread.start()
            for thread in many:
                thread.join()
        WORKERS.stopping.wait()
        say(f"end {self.name}")


def deep(calls: int) -> None:
    if calls:
        deep(calls - 1)


def reload() -> None:
    say("reload")
    if "reload-blocks" in FAULTS:
        time.sleep(3600)  # goes on after a signal
    if "reload" in FAULTS:
        raise ConfigError("new configuration is wrong")


class Check:
    """A self-check that fails after the first time if asked to."""

    def __init__(self) -> None:
        self._count = 0

    def __call__(self) -> list[str]:
        self._count += 1
        is_sick = "sick" in FAULTS and self._count > 1
        return ["no answer"] if is_sick or ("sick-once" in FAULTS and self._count == 2) else []


def main() -> int:
    log.configure(verbosity=1, journal=True)
    service = Service(
        components=[Sample("a"), Sample("b")],
        workers=WORKERS,
        clock=CLOCK,
        notifier=Notifier.connect(os.environ.get("NOTIFY_SOCKET", "")),
        self_check=Check(),
        watchdog_interval_s=watchdog_interval_s(
            os.environ.get("WATCHDOG_USEC", ""), "", os.getpid()
        ),
        reload=None if "no-reload" in FAULTS else reload,
        stop_timeout_s=0.3 if any(fault.startswith("hang") for fault in FAULTS) else 60.0,
    )
    return service.run()


if __name__ == "__main__":
    sys.exit(main())
