"""NVML with deadlines: implements ports.Nvml with child processes that are replaced when they hang or die.

The parent does not load NVML. A child serves one request at a time. A request continues in its child after its caller's
deadline: the same call, repeated, gets the answer, and other children serve other calls. The first use of a GPU without
persistence mode takes seconds, which killing the child would cost again; so only a request without an answer after
``hung_s`` counts as hung and has its child killed. Unkillable children are limited in number and reaped when they end.
The first ``call`` spawns; idle children exit after ``idle_s``.
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
from nvdra_node.host.child import Child, ChildEndedError, LineChild
from nvdra_node.host.nvml_child import IDLE_STATUS

_LOG = log.get(__name__)

STALE_SESSION_CODES = frozenset({1, 9, 12, 18})
"""Uninitialized, driver not loaded, library not found, library/driver version mismatch: the driver was unloaded or
replaced, and the session cannot recover. The next call gets a new process."""

READS = frozenset({"system", "gpu", "fabric", "compute_mode"})
"""Operations that may continue without their caller. Others change the GPU and are ended at the caller's deadline: they
must not take effect after the caller's next step."""

_KILL_WAIT_S = 0.25
_CLOSE_WAIT_S = 1.0
_WAIT_POLL_S = 0.05
"""Poll interval in which a waiting call notices an abandoned request's end."""
_KEEP_S = 10.0
"""How long an abandoned request's result is kept for a repeated call."""
_PACKAGE_ROOT = Path(__file__).resolve().parents[2]
_START = (
    "import sys; sys.path += sys.argv[3:]; "
    "from nvdra_node.host.nvml_child import main; main(sys.argv[1], float(sys.argv[2]))"
)


class ChildSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Limits and times of the children."""

    idle_s: float = 10.0
    """A child exits after this time without a call, unless it collects events; 0: never."""
    max_abandoned: int = 4
    """Unkillable children; with more, calls fail at once."""
    max_children: int = 3
    """Requests in progress at the same time, so that a slow GPU does not block others."""
    hung_s: float = 45.0
    """A request without an answer after this time is hung; the first use of a GPU takes 1.5 to 7 s."""


class _Request:
    """A request sent to a child."""

    def __init__(self, key: str, child: LineChild, started_s: float, hung_at_s: float) -> None:
        self.key = key
        self.child = child
        self.started_s = started_s
        self.hung_at_s = hung_at_s
        self.has_caller = True
        self.is_given_up = False
        self.ended_s: float | None = None
        self.outcome: bytes | ChildEndedError | None = None
        """The answer, or the child's end; None with ``ended_s`` set: hung."""


class ChildNvml:
    """See ports.Nvml. Safe for several threads.

    ``call`` also raises DeadlineError if the call could not start in time because of other calls.
    """

    def __init__(
        self,
        library: Callable[[], Path],
        settings: ChildSettings | None = None,
        spawn: Callable[[Sequence[str]], LineChild] = Child.start,
        clock: Clock | None = None,
    ) -> None:
        """``library`` returns the path of libnvidia-ml.so.1 at each start of a child. Raises HostError."""
        self._library = library
        self._settings = settings or ChildSettings()
        self._spawn = spawn
        self._clock = clock or SystemClock()
        self._changed = threading.Condition()
        self._idle: list[LineChild] = []
        self._requests: dict[str, _Request] = {}
        """In progress or abandoned, by operation and arguments."""
        self._abandoned: list[LineChild] = []
        self._count = 0
        self.hangs = 0
        """Hung calls since start, for metrics."""

    @property
    def pid(self) -> int | None:
        """Process id of a child, for logs; None: no child."""
        children = [*(request.child for request in self._requests.values()), *self._idle]
        return children[-1].pid if children else None

    def call(self, operation: str, deadline: Deadline, **arguments: Any) -> Any:
        """See ports.Nvml."""
        shown = f"nvml {operation}{_shown(arguments)}"
        payload = {"op": operation, "args": arguments}
        request = self._begin(payload, deadline, shown)
        is_last = False
        while isinstance(outcome := self._await(request, deadline), ChildEndedError):
            if outcome.status != IDLE_STATUS or is_last:
                raise NvmlError(
                    f"{shown}: {outcome}; it is restarted", function=operation, code=-1
                ) from outcome
            # It exited idle before reading the request.
            request, is_last = self._begin(payload, deadline, shown), True
        if outcome is not None:
            return self._unwrap(json.loads(outcome), operation, arguments)
        if request.ended_s is None:
            waited_s = self._clock.monotonic() - request.started_s
            raise NvmlSlowError(f"{shown} has not returned yet and continues", waited_s=waited_s)
        raise NvmlHungError(
            f"{shown} did not return in time; its process was killed", function=operation, code=-1
        )

    def stuck(self) -> int:
        """See ports.Nvml."""
        with self._changed:
            self._settle()
            return len(self._abandoned)

    def close(self) -> None:
        """See ports.Nvml. A later call starts a new child.

        Waits for calls in progress up to _CLOSE_WAIT_S, then ends them.
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
                    _LOG.warning("nvml calls still in progress at close", pid=self.pid)
            self._end_idle()

    def _begin(self, payload: dict[str, Any], deadline: Deadline, shown: str) -> _Request:
        """Send the request to a child, or adopt the same abandoned request. Raises DeadlineError."""
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
                    raise DeadlineError(f"{shown}: other calls used up the time; retry")
                self._changed.wait(min(deadline.remaining_s(), _WAIT_POLL_S))
            now_s = self._clock.monotonic()
            is_read = payload["op"] in READS
            limit_s = self._settings.hung_s if is_read else deadline.remaining_s()
            request = _Request(key, child, now_s, now_s + limit_s)
            self._requests[key] = request
            self._count += 1
            try:
                child.send(json.dumps({"id": self._count, **payload}).encode())
            except ChildEndedError as error:
                self._finish(request, error)
            return request

    def _await(self, request: _Request, deadline: Deadline) -> bytes | ChildEndedError | None:
        """Wait for the outcome; at the deadline the request stays in progress unless it is hung."""
        if request.ended_s is None:
            limit = Deadline(min(deadline.remaining_s(), self._hung_in_s(request)), self._clock)
            outcome: bytes | ChildEndedError | None
            try:
                outcome = request.child.receive(limit)
            except ChildEndedError as error:
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

    def _finish(self, request: _Request, outcome: bytes | ChildEndedError | None) -> None:
        """Store the outcome; its child becomes idle or is killed."""
        request.ended_s, request.outcome = self._clock.monotonic(), outcome
        if isinstance(outcome, bytes):
            self._idle.append(request.child)
            return
        if outcome is None:
            self.hangs += 1
        self._end(request.child)

    def _settle(self) -> None:
        """Collect abandoned requests, exited children and killed children."""
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
        except ChildEndedError as error:
            self._finish(request, error)
            return
        if line is not None or self._hung_in_s(request) <= 0.0:
            self._finish(request, line)

    def _free_child(self, shown: str) -> LineChild | None:
        """An idle child or a new one; None at the limit. Raises NvmlHungError, HostError."""
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
            _LOG.warning("nvml process cannot be killed", pid=child.pid)
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
        """All sessions belong to the former driver: the next call opens a new one."""
        with self._changed:
            self._end_idle()


def _shown(arguments: dict[str, Any]) -> str:
    return f"({', '.join(f'{key}={value}' for key, value in arguments.items())})"


def _argv(library: Path, idle_s: float) -> tuple[str, ...]:
    """The child's command: isolated and without site, so that only these directories are imported from."""
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
