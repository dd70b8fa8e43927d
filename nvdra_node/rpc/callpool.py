"""Threads for gRPC's calls: what its server needs of an executor, at half of the standard one's price.

grpcio calls ``submit`` and, on what that returns, ``add_done_callback``; answers and errors of a call go another way.
A thread is started for a call when none is free, up to a limit; above it calls wait in order. A thread that has had no
call for a while ends, except for a few. Threads do not hold up the end of the process. Used by ``server``.

Calls that wait for long (a prepare waits for a compute domain) have a lane: a pool with a limit of its own, so that
however many wait, other kinds of calls find a thread.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping
from queue import Empty, SimpleQueue
from typing import Any

from nvdra_core.runtime import log

KEPT_THREADS = 4
IDLE_S = 10.0
"""After so long without a call a thread ends, if there are more than ``KEPT_THREADS``."""

DEFAULT_LANE = ""

_LOG = log.get(__name__)


class Laned:
    """A gRPC handler whose calls take the lane of this name."""

    __slots__ = ("_handler", "lane")

    def __init__(self, lane: str, handler: Callable[[Any, Any], Any]) -> None:
        self.lane = lane
        self._handler = handler

    def __call__(self, request: Any, context: Any) -> Any:
        """Handle one call."""
        return self._handler(request, context)


class Submitted:
    """A call that was submitted; the part of a Future that grpcio uses."""

    __slots__ = ("_callbacks", "_is_done", "_lock", "arguments", "function")

    def __init__(self, function: Callable[..., object], arguments: tuple[Any, ...]) -> None:
        self.function = function
        self.arguments = arguments
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[Submitted], object]] = []
        self._is_done = False

    def add_done_callback(self, callback: Callable[[Submitted], object]) -> None:
        """Call back once the call has ended; now, if it has."""
        with self._lock:
            if not self._is_done:
                self._callbacks.append(callback)
                return
        callback(self)

    def run(self) -> None:
        """Carry the call out, in one of the pool's threads."""
        try:
            self.function(*self.arguments)
        # The border: grpcio answers for what a handler raises, so this is a bug, and no reason to lose the thread.
        except Exception as error:  # noqa: BLE001
            _LOG.error("a call ended outside of its handler", error)
        with self._lock:
            self._is_done = True
        for callback in self._callbacks:
            callback(self)


class CallPool:
    """See the module. Thread safe."""

    def __init__(self, limit: int, name: str, idle_s: float = IDLE_S) -> None:
        self._limit = limit
        self._name = name
        self._idle_s = idle_s
        self._queue: SimpleQueue[Submitted | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._free = 0
        """Threads without a call, less calls without a thread."""
        self._is_closed = False

    def submit(self, function: Callable[..., object], /, *arguments: Any) -> Submitted:
        """Run a call as soon as a thread is free. Raises RuntimeError after ``close``, as executors do."""
        call = Submitted(function, arguments)
        with self._lock:
            if self._is_closed:
                raise RuntimeError("the server has ended")
            self._queue.put(call)
            if self._free > 0 or self._threads >= self._limit or not self._start_thread():
                self._free -= 1
        return call

    def close(self) -> None:
        """Take no more calls and drop those that wait; threads end after the calls that they carry out."""
        with self._lock:
            self._is_closed = True
            # Threads take calls without the lock: what is there now can be gone a moment later.
            with contextlib.suppress(Empty):
                while True:
                    self._queue.get_nowait()
            for _ in range(self._threads):
                self._queue.put(None)

    def _start_thread(self) -> bool:
        """The caller holds the lock. False: the system gives no more threads, and the call waits for one of ours."""
        name = f"{self._name}_{self._threads + 1}"
        try:
            threading.Thread(target=self._work, name=name, daemon=True).start()
        except RuntimeError as error:
            if not self._threads:
                raise
            _LOG.warning("no new thread for a call; it waits for another to end", error)
            return False
        self._threads += 1
        return True

    def _work(self) -> None:
        while (call := self._next()) is not None:
            call.run()
            del call  # with all that its request holds
            with self._lock:
                self._free += 1

    def _next(self) -> Submitted | None:
        """The next call; None: the thread is to end."""
        while True:
            # Those that stay need not wake up.
            idle_s = self._idle_s if self._threads > KEPT_THREADS else None
            try:
                return self._queue.get(timeout=idle_s)
            except Empty:
                with self._lock:
                    # ``submit`` and ``close`` fill the queue under the lock: what is empty now stays so meanwhile.
                    if self._queue.empty() and self._threads > KEPT_THREADS:
                        self._threads -= 1
                        self._free -= 1
                        return None


class CallLanes:
    """A pool for each lane. Calls of handlers that are not ``Laned`` take the default lane."""

    def __init__(self, limits: Mapping[str, int], name: str) -> None:
        """``limits``: threads of each lane, with the default lane's."""
        self._pools = {
            lane: CallPool(limit, f"{name}-{lane}" if lane else name)
            for lane, limit in limits.items()
        }

    def submit(self, function: Callable[..., object], /, *arguments: Any) -> Submitted:
        """See CallPool. grpcio passes the handler among the arguments."""
        lane = next((each.lane for each in arguments if isinstance(each, Laned)), DEFAULT_LANE)
        pool = self._pools.get(lane) or self._pools[DEFAULT_LANE]
        return pool.submit(function, *arguments)

    def close(self) -> None:
        """See CallPool."""
        for pool in self._pools.values():
            pool.close()
