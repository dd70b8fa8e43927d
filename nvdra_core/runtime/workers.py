"""Supervised background threads of a service.

The first unexpected end of a worker stops the service, and systemd restarts it; so does, inside ``supervise_all``, an
uncaught exception in any other thread. Loops that stop iterating are found by their heartbeat.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from nvdra_core.errors import NvdraError
from nvdra_core.runtime import log
from nvdra_core.runtime.clock import Clock, Deadline

_LOG = log.get(__name__)


class WorkerEndedError(NvdraError):
    """A worker returned before the service was stopping: a bug."""


class Heartbeat:
    """A loop calls ``beat`` in each iteration, at least every ``max_silence_s``."""

    __slots__ = ("_clock", "_last_s", "_max_silence_s", "name")

    def __init__(self, name: str, max_silence_s: float, clock: Clock) -> None:
        self.name = name
        self._max_silence_s = max_silence_s
        self._clock = clock
        self._last_s = clock.monotonic()

    def beat(self) -> None:
        """Record an iteration."""
        self._last_s = self._clock.monotonic()

    def problem(self) -> str:
        """What is wrong; empty: nothing."""
        silence_s = self._clock.monotonic() - self._last_s
        if silence_s <= self._max_silence_s:
            return ""
        return f"{self.name}: silent for {silence_s:.0f} s, allowed are {self._max_silence_s:g} s"


class Workers:
    """All supervised threads of one process. Components call ``spawn``; loops end when ``stopping`` is set."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._heartbeats: list[Heartbeat] = []
        self._failure: BaseException | None = None
        self._wake: Callable[[], None] = lambda: None
        self.stopping = threading.Event()

    @property
    def failure(self) -> BaseException | None:
        """The error of the first worker that failed; None: none failed."""
        return self._failure

    def on_failure(self, wake: Callable[[], None]) -> None:
        """Call ``wake`` (from the failing thread) when a worker fails."""
        self._wake = wake

    def spawn(self, name: str, target: Callable[[], None]) -> threading.Thread:
        """Run ``target`` in a thread until ``stopping``. An exception or an earlier return stops the service."""
        thread = threading.Thread(target=self._run, args=(name, target), name=name, daemon=True)
        with self._lock:
            self._threads = [t for t in self._threads if t.is_alive() or t.ident is None]
            self._threads.append(thread)
        thread.start()
        return thread

    def heartbeat(self, name: str, max_silence_s: float) -> Heartbeat:
        """A heartbeat that ``problems`` checks from now on."""
        heartbeat = Heartbeat(name, max_silence_s, self._clock)
        with self._lock:
            self._heartbeats.append(heartbeat)
        return heartbeat

    def problems(self) -> list[str]:
        """Failed workers and silent loops, for the self-check; empty: none."""
        with self._lock:
            found = [heartbeat.problem() for heartbeat in self._heartbeats]
        if self._failure is not None:
            found.append(f"a worker failed: {self._failure}")
        return [problem for problem in found if problem]

    @contextmanager
    def supervise_all(self) -> Iterator[None]:
        """Treat an uncaught exception in any thread as the failure of a worker."""

        def failed(args: threading.ExceptHookArgs) -> None:
            name = args.thread.name if args.thread is not None else "?"
            self._fail(name, args.exc_value or args.exc_type())

        usual = threading.excepthook
        threading.excepthook = failed
        try:
            yield
        finally:
            threading.excepthook = usual

    def join(self, deadline: Deadline) -> list[str]:
        """Wait for all workers after ``stopping`` was set; returns the names of those still running."""
        with self._lock:
            threads = list(self._threads)
        for thread in threads:
            thread.join(deadline.remaining_s())
        return [thread.name for thread in threads if thread.is_alive()]

    def _run(self, name: str, target: Callable[[], None]) -> None:
        try:
            target()
        except Exception as error:  # noqa: BLE001 - the top of a thread: logged, stops the service
            self._fail(name, error)
        else:
            if not self.stopping.is_set():
                self._fail(name, WorkerEndedError(f"worker {name} returned unexpectedly"))

    def _fail(self, name: str, error: BaseException) -> None:
        _LOG.error("worker failed", error, worker=name)
        with self._lock:
            self._failure = self._failure or error
        self._wake()
