"""Runs a process: starts its components in order, acts on signals, stops the components in reverse order.

SIGTERM, SIGINT and SIGQUIT stop; SIGHUP reloads; SIGUSR2 writes all stacks to stderr, also while the main thread hangs,
and so do a crash and the SIGABRT of systemd's watchdog. The watchdog is fed only after a passed self-check.
"""

from __future__ import annotations

import faulthandler
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from types import FrameType, TracebackType
from typing import Protocol

import msgspec

from nvdra_core.errors import ConfigError, NvdraError
from nvdra_core.runtime import log, stacks
from nvdra_core.runtime.clock import Clock, Deadline
from nvdra_core.runtime.systemd import Notifier
from nvdra_core.runtime.workers import Workers

_LOG = log.get(__name__)

EXIT_OK = 0
EXIT_FAILURE = 1
EXIT_CONFIG = 2
JOIN_S = 1.0
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


class Component(Protocol):
    """Runs as long as the service."""

    @property
    def name(self) -> str:
        """Its name in logs."""

    def start(self) -> None:
        """Start; return when it works. Raises NvdraError, which stops the service."""

    def stop(self, deadline: Deadline) -> None:
        """Stop by the deadline. Called once, and only if ``start`` returned."""


def _do_nothing() -> None:
    return None


def _do_nothing_by(deadline: Deadline) -> None:
    return None


class FunctionComponent(msgspec.Struct, frozen=True, kw_only=True):
    """A component made of functions."""

    name: str
    begin: Callable[[], object] = _do_nothing
    end: Callable[[Deadline], object] = _do_nothing_by

    def start(self) -> None:
        """See Component."""
        self.begin()

    def stop(self, deadline: Deadline) -> None:
        """See Component."""
        self.end(deadline)


def worker_component(
    workers: Workers,
    name: str,
    target: Callable[[], None],
    wake: Callable[[], object] = _do_nothing,
) -> FunctionComponent:
    """A component that runs ``target`` in a worker; ``wake`` is called at the stop to end it early."""
    return FunctionComponent(
        name=name, begin=lambda: workers.spawn(name, target), end=lambda deadline: wake()
    )


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """One process. ``run`` returns its exit status."""

    components: Sequence[Component]
    """In the order of starting."""
    workers: Workers
    clock: Clock
    notifier: Notifier
    self_check: Callable[[], list[str]]
    """What is wrong; empty: nothing. Should test a request to this service, and must return by itself: while it hangs,
    the watchdog is not fed and SIGTERM waits."""
    watchdog_interval_s: float | None = None
    """None: no watchdog."""
    reload: Callable[[], None] | None = None
    """Read the configuration again. Raises NvdraError when the old one stays in force."""
    stop_timeout_s: float = 20.0

    def run(self) -> int:
        """Start, run until a signal or a failure, stop. Main thread only.

        Returns EXIT_OK, EXIT_FAILURE or EXIT_CONFIG.
        """
        faulthandler.enable(sys.stderr, all_threads=True)
        started: list[Component] = []
        with self.workers.supervise_all(), _Signals() as signals:
            self.workers.on_failure(signals.wake)
            try:
                status = self._start(started, signals)
                if status is None:
                    status = self._work(signals)
            except Exception as error:  # noqa: BLE001 - top of the main thread: logged, stops
                _LOG.error("service failed", error)
                status = EXIT_CONFIG if isinstance(error, ConfigError) else EXIT_FAILURE
            is_clean = self._stop(started)
        return status or (EXIT_OK if is_clean else EXIT_FAILURE)

    def problems(self) -> list[str]:
        """Failed workers and what the self-check found, for the watchdog and the health endpoint."""
        try:
            return [*self.workers.problems(), *self.self_check()]
        except NvdraError as error:
            return [f"self-check: {error}"]

    def _start(self, started: list[Component], signals: _Signals) -> int | None:
        """None when all components are started; an exit status if a stop was requested before."""
        for component in self.components:
            self.notifier.status(f"starting {component.name}")
            component.start()
            started.append(component)
            _LOG.info("started", v=1, component=component.name)
            status = self._act_on(signals.wait(0.0))
            if status is not None:
                return status
        self.notifier.ready("running")
        _LOG.info("service is ready")
        return None

    def _work(self, signals: _Signals) -> int:
        interval_s = self.watchdog_interval_s
        next_check_s = self.clock.monotonic()
        is_healthy = True
        while True:
            timeout_s = None
            if interval_s is not None:
                if self.clock.monotonic() >= next_check_s:
                    is_healthy = self._feed_watchdog(was_healthy=is_healthy)
                    next_check_s = self.clock.monotonic() + interval_s
                timeout_s = max(0.0, next_check_s - self.clock.monotonic())
            status = self._act_on(signals.wait(timeout_s))
            if status is not None:
                return status

    def _act_on(self, received: Sequence[int]) -> int | None:
        """Act on signals and on a failed worker; returns an exit status to stop with."""
        if self.workers.failure is not None:
            return EXIT_FAILURE
        stops = [number for number in received if number in _STOP_SIGNALS]
        if stops:
            _LOG.info("stopping on signal", signal=signal.Signals(stops[0]).name)
            return EXIT_OK
        if signal.SIGHUP in received:
            self._reload()
        return None

    def _reload(self) -> None:
        # Notified even if there is nothing to reload: "systemctl reload" waits for it.
        self.notifier.reloading(self.clock.monotonic())
        try:
            if self.reload is None:
                _LOG.warning("nothing to reload")
            else:
                self.reload()
        except NvdraError as error:
            _LOG.error("reload failed; old configuration stays in force", error)
            self.notifier.ready(f"running; reload failed: {error}")
        else:
            _LOG.info("reloaded", v=1)
            self.notifier.ready("running")

    def _feed_watchdog(self, *, was_healthy: bool) -> bool:
        """Feed the watchdog if the self-check passes; returns whether it did."""
        problems = self.problems()
        if problems:
            _LOG.warning("self-check failed; watchdog not fed", problems="; ".join(problems))
            self.notifier.status(f"unhealthy: {'; '.join(problems)}")
            return False
        if not was_healthy:
            _LOG.info("self-check recovered")
            self.notifier.status("running")
        self.notifier.watchdog()
        return True

    def _stop(self, started: Sequence[Component]) -> bool:
        """Stop components, last first, even if some raise; returns whether all stopped cleanly."""
        self.notifier.stopping("stopping")
        deadline = Deadline(self.stop_timeout_s, self.clock)
        self.workers.stopping.set()
        is_clean = True
        for component in reversed(started):
            try:
                component.stop(deadline)
            except Exception as error:  # noqa: BLE001, PERF203 - the others must be stopped too
                _LOG.error("cannot stop component", error, component=component.name)
                is_clean = False
        if left := self.workers.join(deadline):
            _LOG.warning("workers did not end in time", workers=",".join(left))
            is_clean = False
        _LOG.info("stopped")
        return is_clean


class _Signals:
    """Signals as data, so that no Python code of ours runs inside a signal handler.

    The interpreter writes each signal's number to a socket (signal.set_wakeup_fd). A thread reads it, writes stacks on
    SIGUSR2, and forwards the rest to the socket that the main thread waits on; other threads wake it with a zero.
    Blocking signals for sigwait would not do: children inherit the mask and would not get SIGTERM.
    """

    _HANDLED = (*_STOP_SIGNALS, signal.SIGHUP, signal.SIGUSR2)

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._raised, self._raise = socket.socketpair()
        self._raise.setblocking(False)
        self._thread = threading.Thread(target=self._forward, name="signals", daemon=True)

    def __enter__(self) -> _Signals:
        self._thread.start()
        self._old_fd = signal.set_wakeup_fd(self._raise.fileno(), warn_on_full_buffer=False)
        self._old = {number: signal.signal(number, _ignore) for number in self._HANDLED}
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # The default action of a late SIGUSR2 would end the process.
        self._old[signal.SIGUSR2] = signal.SIG_IGN
        for number, handler in self._old.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._old_fd)
        self._raise.close()
        self._thread.join(JOIN_S)
        for end in (self._raised, self._reader, self._writer):
            end.close()

    def _forward(self) -> None:
        """Body of the thread; ends when the sockets are closed."""
        while numbers := self._raised.recv(4096):
            if signal.SIGUSR2 in numbers:
                stacks.write()
            self._send(numbers)

    def wake(self) -> None:
        """Make ``wait`` return, from any thread."""
        self._send(b"\0")

    def _send(self, numbers: bytes) -> None:
        try:
            self._writer.send(numbers)
        except OSError:
            return  # full: the main thread wakes anyway; closed: it no longer waits

    def wait(self, timeout_s: float | None) -> list[int]:
        """The signals received within ``timeout_s``; empty on timeout or ``wake``."""
        poll = select.poll()
        poll.register(self._reader, select.POLLIN)
        ready = poll.poll(None if timeout_s is None else timeout_s * 1000)
        numbers = self._reader.recv(4096) if ready else b""
        return [number for number in numbers if number]


def _ignore(number: int, frame: FrameType | None) -> None:
    """Replaces the default action; ``_Signals`` reads the number."""
