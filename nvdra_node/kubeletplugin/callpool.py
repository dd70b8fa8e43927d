"""Threads for gRPC's calls: what its server needs of an executor, at half of the standard one's price.

grpcio calls ``submit`` and, on what that returns, ``add_done_callback``; answers and errors of a call go another way.
A thread is started for a call when none is free, up to a limit; above it calls wait in order. Threads do not hold up
the end of the process. Used by ``server``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from nvdra_core import log

_log = log.get(__name__)


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
            _log.error("a call ended outside of its handler", error)
        with self._lock:
            self._is_done = True
        for callback in self._callbacks:
            callback(self)


class CallPool:
    """See the module. Thread safe."""

    def __init__(self, limit: int, name: str) -> None:
        self._limit = limit
        self._name = name
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
            needs_thread = self._free <= 0 and self._threads < self._limit
            if needs_thread:
                self._threads += 1
            else:
                self._free -= 1
            self._queue.put(call)
        if needs_thread:
            name = f"{self._name}_{self._threads}"
            threading.Thread(target=self._work, name=name, daemon=True).start()
        return call

    def close(self) -> None:
        """Take no more calls and drop those that wait; threads end after the calls that they carry out."""
        with self._lock:
            self._is_closed = True
            while not self._queue.empty():
                self._queue.get()
            for _ in range(self._threads):
                self._queue.put(None)

    def _work(self) -> None:
        while (call := self._queue.get()) is not None:
            call.run()
            del call  # with all that its request holds
            with self._lock:
                self._free += 1
