"""NVML behind deadlines: implements ports.Nvml with child processes that are replaced when they hang or die.

The parent loads nothing of NVIDIA's. A child serves one request at a time. A request whose caller's deadline passes
goes on in its child: the same call, repeated, gets its answer, and other calls are served by another child meanwhile.
The first use of a GPU without persistence mode takes seconds, and a killed child would make all its GPUs cold again; so
only a request that has not returned after ``hung_s`` is taken for hung, and its child is killed. A child that cannot be
killed is left behind, a bounded number of them, and reaped when the kernel lets it go. Built without starting: the
first ``call`` spawns; children end by themselves after ``idle_s``.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from nvdra_core.errors import DeadlineError, HostError, NvmlError, NvmlHungError, NvmlSlowError
from nvdra_core.runtime import log
from nvdra_core.runtime.clock import Clock, Deadline, SystemClock
from nvdra_node.host.child import Child, ChildGoneError, LineChild
from nvdra_node.host.nvml_child import IDLE_STATUS

_LOG = log.get(__name__)

STALE_SESSION_CODES = frozenset({1, 9, 12, 18})
"""Uninitialized, driver not loaded, library not found, library and driver of different versions: the session cannot
become good again, as the driver was unloaded or replaced. The next call gets a fresh process."""

READS = frozenset({"system", "gpu", "fabric", "compute_mode"})
"""Operations that may go on without their caller. One that changes something is given up at its caller's deadline: it
must not come after what the caller does next."""

_KILL_WAIT_S = 0.25
_CLOSE_WAIT_S = 1.0
_TURN_POLL_S = 0.05
"""How soon a waiting call sees that a request without a caller has returned."""
_KEEP_S = 10.0
"""How long the result of a request without a caller is kept for a repeated call."""
_PACKAGE_ROOT = Path(__file__).resolve().parents[2]
_START = (
    "import sys; sys.path += sys.argv[3:]; "
    "from nvdra_node.host.nvml_child import main; main(sys.argv[1], float(sys.argv[2]))"
)


class ChildSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How children live."""

    idle_s: float = 10.0
    """A child ends after this time without a call, unless it collects events; 0: never."""
    max_abandoned: int = 4
    """So many unkillable children may exist before calls are refused at once."""
    max_children: int = 3
    """So many requests may be in progress at once: slow GPUs must not hold up the others."""
    hung_s: float = 45.0
    """A request that has not returned after this time is hung; the first use of a GPU takes 1.5 to 7 s."""


class _Request:
    """A request that was given to a child."""

    def __init__(self, key: str, child: LineChild, started_s: float, hung_at_s: float) -> None:
        self.key = key
        self.child = child
        self.started_s = started_s
        self.hung_at_s = hung_at_s
        self.has_caller = True
        self.is_given_up = False
        self.ended_s: float | None = None
        self.outcome: bytes | ChildGoneError | None = None
        """The answer, or how the child ended; None with ``ended_s``: hung."""


class ChildNvml:
    """See ports.Nvml. Safe for several threads.

    Besides the port's errors ``call`` raises DeadlineError when other calls kept this one from starting in time.
    """

    def __init__(
        self,
        library: Callable[[], Path],
        settings: ChildSettings | None = None,
        spawn: Callable[[Sequence[str]], LineChild] = Child.start,
        clock: Clock | None = None,
    ) -> None:
        """``library`` finds libnvidia-ml.so.1, again at each start of a child; it raises HostError."""
        self._library = library
        self._settings = settings or ChildSettings()
        self._spawn = spawn
        self._clock = clock or SystemClock()
        self._changed = threading.Condition()
        self._idle: list[LineChild] = []
        self._requests: dict[str, _Request] = {}
        """In progress, or ended without a caller, by operation and arguments."""
        self._abandoned: list[LineChild] = []
        self._count = 0
        self.hangs = 0
        """Calls given up since start, for metrics."""

    @property
    def pid(self) -> int | None:
        """Process id of a child, for diagnosis; None when there is none."""
        children = [*(request.child for request in self._requests.values()), *self._idle]
        return children[-1].pid if children else None

    def call(self, operation: str, deadline: Deadline, **arguments: Any) -> Any:
        """See ports.Nvml."""
        shown = f"nvml {operation}{_shown(arguments)}"
        payload = {"op": operation, "args": arguments}
        request = self._begin(payload, deadline, shown)
        is_last = False
        while isinstance(outcome := self._await(request, deadline), ChildGoneError):
            if outcome.status != IDLE_STATUS or is_last:
                raise NvmlError(
                    f"{shown}: {outcome}; it will be started again", function=operation, code=-1
                ) from outcome
            # It ended for want of work before it read the request, so nothing was begun.
            request, is_last = self._begin(payload, deadline, shown), True
        if outcome is not None:
            return self._unwrap(json.loads(outcome), operation, arguments)
        if request.ended_s is None:
            waited_s = self._clock.monotonic() - request.started_s
            raise NvmlSlowError(f"{shown} has not returned yet; it goes on", waited_s=waited_s)
        raise NvmlHungError(
            f"{shown} did not return in time; its process was given up", function=operation, code=-1
        )

    def stuck(self) -> int:
        """See ports.Nvml."""
        with self._changed:
            self._settle()
            return len(self._abandoned)

    def close(self) -> None:
        """See ports.Nvml. A later call starts a new child.

        Calls in progress are waited for, but not for long: those that hang are given up, as at their end.
        """
        with self._changed:
            for request in [r for r in self._requests.values() if not r.has_caller]:
                del self._requests[request.key]
                if request.ended_s is None:
                    self._end(request.child)
            self._end_idle()
            if not self._changed.wait_for(lambda: not self._requests, _CLOSE_WAIT_S):
                for request in self._requests.values():
                    request.is_given_up = True
                    request.child.give_up()
                if not self._changed.wait_for(lambda: not self._requests, _CLOSE_WAIT_S):
                    _LOG.warning("nvml processes have more calls, leaving them", pid=self.pid)
            self._end_idle()

    def _begin(self, payload: dict[str, Any], deadline: Deadline, shown: str) -> _Request:
        """Give the request to a child, or take over the same one whose caller has gone. Raises DeadlineError."""
        key = json.dumps(payload, sort_keys=True)
        with self._changed:
            while True:
                self._settle()
                known = self._requests.get(key)
                if known is not None and not known.has_caller:
                    known.has_caller = True
                    return known
                child = self._free_child(shown) if known is None else None
                if child is not None:
                    break
                if deadline.remaining_s() <= 0.0:
                    raise DeadlineError(f"{shown}: other calls took all the time; try again")
                self._changed.wait(min(deadline.remaining_s(), _TURN_POLL_S))
            now_s = self._clock.monotonic()
            is_read = payload["op"] in READS
            limit_s = self._settings.hung_s if is_read else deadline.remaining_s()
            request = _Request(key, child, now_s, now_s + limit_s)
            self._requests[key] = request
            self._count += 1
            try:
                child.send(json.dumps({"id": self._count, **payload}).encode())
            except ChildGoneError as error:
                self._finish(request, error)
            return request

    def _await(self, request: _Request, deadline: Deadline) -> bytes | ChildGoneError | None:
        """Wait for the outcome of a request; one that is not hung stays in progress at the deadline."""
        if request.ended_s is None:
            limit = Deadline(min(deadline.remaining_s(), self._hung_in_s(request)), self._clock)
            outcome: bytes | ChildGoneError | None
            try:
                outcome = request.child.receive(limit)
            except ChildGoneError as error:
                outcome = error
            with self._changed:
                is_hung = request.is_given_up or self._hung_in_s(request) <= 0.0
                if outcome is not None or is_hung:
                    self._finish(request, outcome)
        with self._changed:
            request.has_caller = False
            if request.ended_s is not None:
                del self._requests[request.key]
            self._changed.notify_all()
        return request.outcome

    def _hung_in_s(self, request: _Request) -> float:
        return request.hung_at_s - self._clock.monotonic()

    def _finish(self, request: _Request, outcome: bytes | ChildGoneError | None) -> None:
        """Store how a request ended; its child is free, or ended."""
        request.ended_s, request.outcome = self._clock.monotonic(), outcome
        if isinstance(outcome, bytes):
            self._idle.append(request.child)
            return
        if outcome is None:
            self.hangs += 1
        self._end(request.child)

    def _settle(self) -> None:
        """See what became of requests without a caller, and of children without a request."""
        now_s = self._clock.monotonic()
        for request in [r for r in self._requests.values() if not r.has_caller]:
            if request.ended_s is None:
                self._poll(request)
            elif now_s - request.ended_s > _KEEP_S:
                del self._requests[request.key]
        self._idle = [child for child in self._idle if not child.has_exited(IDLE_STATUS)]
        self._abandoned = [child for child in self._abandoned if not child.reap()]

    def _poll(self, request: _Request) -> None:
        try:
            line = request.child.receive(Deadline(0.0, self._clock))
        except ChildGoneError as error:
            self._finish(request, error)
            return
        if line is not None or self._hung_in_s(request) <= 0.0:
            self._finish(request, line)

    def _free_child(self, shown: str) -> LineChild | None:
        """An idle child or a new one; None while there are too many. Raises NvmlHungError, HostError."""
        if self._idle:
            return self._idle.pop()
        if sum(r.ended_s is None for r in self._requests.values()) >= self._settings.max_children:
            return None
        if len(self._abandoned) >= self._settings.max_abandoned:
            raise NvmlHungError(
                f"{shown}: {len(self._abandoned)} NVML processes hang in the kernel and cannot be killed; "
                "the node needs a GPU reset or a reboot",
                function=shown,
                code=-1,
            )
        return self._spawn(_argv(self._library(), self._settings.idle_s))

    def _end_idle(self) -> None:
        idle, self._idle = self._idle, []
        for child in idle:
            self._end(child)

    def _end(self, child: LineChild) -> None:
        if not child.kill(_KILL_WAIT_S):
            _LOG.warning("nvml process cannot be killed, leaving it behind", pid=child.pid)
            self._abandoned.append(child)

    def _unwrap(self, answer: dict[str, Any], operation: str, arguments: dict[str, Any]) -> Any:
        fault = answer.get("error")
        if fault is None:
            return answer["ok"]
        shown = f"nvml {operation}{_shown(arguments)}"
        if fault["kind"] == "nvml":
            if fault["code"] in STALE_SESSION_CODES:
                self._end_stale()
            raise NvmlError(
                f"{shown}: {fault['function']}: {fault['message']} ({fault['code']})",
                function=fault["function"],
                code=fault["code"],
            )
        if fault["kind"] == "library":
            self._end_stale()
            raise HostError(f"{shown}: the NVML library does not load: {fault['message']}")
        raise HostError(f"{shown}: {fault['message']}")

    def _end_stale(self) -> None:
        """All sessions are of the driver that was: the next call opens another."""
        with self._changed:
            self._end_idle()


def _shown(arguments: dict[str, Any]) -> str:
    return f"({', '.join(f'{key}={value}' for key, value in arguments.items())})"


def _argv(library: Path, idle_s: float) -> tuple[str, ...]:
    """The child's command: isolated, without site, so that it imports nothing but what it is given."""
    return (
        sys.executable,
        "-I",
        "-S",
        "-c",
        _START,
        str(library),
        str(idle_s),
        str(_PACKAGE_ROOT),
        str(_pynvml_dir()),
    )


def _pynvml_dir() -> Path:
    spec = importlib.util.find_spec("pynvml")
    if spec is None or spec.origin is None:
        raise HostError("the Python module pynvml (nvidia-ml-py) is not installed")
    return Path(spec.origin).parent
