"""The life of a process: start its parts in order, heed signals, stop them in reverse. ``cli``
builds it and calls ``run``.

SIGTERM, SIGINT and SIGQUIT stop; SIGHUP reloads; SIGUSR2 writes all stacks to stderr, also while the
main thread hangs, and so do a crash and the SIGABRT of systemd's watchdog before they end it.
The systemd watchdog is fed only after the self-check found nothing wrong, never by a timer alone.
Nothing is started or registered before ``run``.
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
    """Something that runs while the service does."""

    @property
    def name(self) -> str:
        """What it is called in logs."""

    def start(self) -> None:
        """Begin; return when it works. Raises NvdraError, which stops the service."""

    def stop(self, deadline: Deadline) -> None:
        """End, by the deadline. Called once, and only if ``start`` returned."""


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


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """One process. ``run`` returns its exit status."""

    components: Sequence[Component]
    """In the order of starting."""
    workers: Workers
    clock: Clock
    notifier: Notifier
    self_check: Callable[[], list[str]]
    """What is wrong now, empty when nothing is. Must prove work (a call to ourselves was answered),
    and must end by itself: while it hangs, the watchdog is not fed, and SIGTERM waits."""
    watchdog_interval_s: float | None = None
    """None: systemd does not watch."""
    reload: Callable[[], None] | None = None
    """Read the configuration again; what it raises (NvdraError) means that the old one stays."""
    stop_timeout_s: float = 20.0

    def run(self) -> int:
        """Start, work until told to stop, stop. Main thread only. Returns 0, 1 (failure) or 2
        (configuration).
        """
        faulthandler.enable(sys.stderr, all_threads=True)
        started: list[Component] = []
        with self.workers.supervise_all(), _Signals() as signals:
            self.workers.on_failure(signals.wake)
            try:
                status = self._start(started, signals)
                if status is None:
                    status = self._work(signals)
            except Exception as error:  # noqa: BLE001 - the top of the main thread: logged, stops
                _LOG.error("service failed", error)
                status = EXIT_CONFIG if isinstance(error, ConfigError) else EXIT_FAILURE
            is_clean = self._stop(started)
        return status or (EXIT_OK if is_clean else EXIT_FAILURE)

    def problems(self) -> list[str]:
        """Everything that is wrong now: what the watchdog goes by, and a health endpoint may
        show.
        """
        try:
            return [*self.workers.problems(), *self.self_check()]
        except NvdraError as error:
            return [f"self-check: {error}"]

    def _start(self, started: list[Component], signals: _Signals) -> int | None:
        """None when all parts are started, an exit status when told to stop before."""
        for part in self.components:
            self.notifier.status(f"starting {part.name}")
            part.start()
            started.append(part)
            _LOG.info("started", v=1, component=part.name)
            status = self._heed(signals.wait(0.0))
            if status is not None:
                return status
        self.notifier.ready("running")
        _LOG.info("service is ready")
        return None

    def _work(self, signals: _Signals) -> int:
        interval_s = self.watchdog_interval_s
        next_check_s = self.clock.monotonic()
        is_well = True
        while True:
            timeout_s = None
            if interval_s is not None:
                if self.clock.monotonic() >= next_check_s:
                    is_well = self._feed_watchdog(was_well=is_well)
                    next_check_s = self.clock.monotonic() + interval_s
                timeout_s = max(0.0, next_check_s - self.clock.monotonic())
            status = self._heed(signals.wait(timeout_s))
            if status is not None:
                return status

    def _heed(self, received: Sequence[int]) -> int | None:
        """Act on signals and on a failed worker; an exit status when it is time to stop."""
        if self.workers.failure is not None:
            return EXIT_FAILURE
        told = [number for number in received if number in _STOP_SIGNALS]
        if told:
            _LOG.info("told to stop", signal=signal.Signals(told[0]).name)
            return EXIT_OK
        if signal.SIGHUP in received:
            self._reload()
        return None

    def _reload(self) -> None:
        # Told even when there is nothing to do, or "systemctl reload" would wait for it in vain.
        self.notifier.reloading(self.clock.monotonic())
        try:
            if self.reload is None:
                _LOG.warning("nothing to reload")
            else:
                self.reload()
        except NvdraError as error:
            _LOG.error("reload failed; the old configuration stays", error)
            self.notifier.ready(f"running; reload failed: {error}")
        else:
            _LOG.info("reloaded", v=1)
            self.notifier.ready("running")

    def _feed_watchdog(self, *, was_well: bool) -> bool:
        """Whether the self-check found nothing wrong; only then the watchdog is fed."""
        problems = self.problems()
        if problems:
            _LOG.warning("self-check failed; the watchdog is not fed", problems="; ".join(problems))
            self.notifier.status(f"unhealthy: {'; '.join(problems)}")
            return False
        if not was_well:
            _LOG.info("self-check is content again")
            self.notifier.status("running")
        self.notifier.watchdog()
        return True

    def _stop(self, started: Sequence[Component]) -> bool:
        """Stop parts, last first, whatever they raise; whether all ended in order."""
        self.notifier.stopping("stopping")
        deadline = Deadline(self.stop_timeout_s, self.clock)
        self.workers.stopping.set()
        is_clean = True
        for part in reversed(started):
            try:
                part.stop(deadline)
            except Exception as error:  # noqa: BLE001, PERF203 - the others must be stopped too
                _LOG.error("cannot stop component", error, component=part.name)
                is_clean = False
        if left := self.workers.join(deadline):
            _LOG.warning("workers did not end in time", workers=",".join(left))
            is_clean = False
        _LOG.info("stopped")
        return is_clean


class _Signals:
    """Turns signals into data, so that no code of ours runs inside a handler.

    The interpreter writes each signal's number into a socket. A thread reads it, writes stacks if
    asked to, and passes the rest on to the main thread, which waits on a socket of its own; other
    threads wake it with a zero. Not blocked signals and sigwait: children would inherit the block
    and be deaf to SIGTERM.
    """

    _HANDLED = (*_STOP_SIGNALS, signal.SIGHUP, signal.SIGUSR2)

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._raised, self._raise = socket.socketpair()
        self._raise.setblocking(False)
        self._thread = threading.Thread(target=self._pass_on, name="signals", daemon=True)

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
        # Whoever asks for stacks now must not end the process by that.
        self._old[signal.SIGUSR2] = signal.SIG_IGN
        for number, handler in self._old.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._old_fd)
        self._raise.close()
        self._thread.join(JOIN_S)
        for end in (self._raised, self._reader, self._writer):
            end.close()

    def _pass_on(self) -> None:
        """The thread: until the sockets are closed."""
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
            return  # full: the main thread wakes up anyway; closed: it waits no more

    def wait(self, timeout_s: float | None) -> list[int]:
        """The signals that came, at most after ``timeout_s``; empty on a timeout or a wake."""
        poll = select.poll()
        poll.register(self._reader, select.POLLIN)
        ready = poll.poll(None if timeout_s is None else timeout_s * 1000)
        numbers = self._reader.recv(4096) if ready else b""
        return [number for number in numbers if number]


def _ignore(number: int, frame: FrameType | None) -> None:
    """Only there to take the place of the default action; ``_Signals`` reads the number."""
