"""NVML behind deadlines: implements ports.Nvml with a child process that is replaced whenever it hangs or dies.

The parent loads nothing of NVIDIA's. One request runs at a time; who waits for his turn waits inside his own deadline.
A child that does not answer is killed; one that cannot even be killed is left behind, a bounded number of them, and
reaped when the kernel lets it go. Built without starting: the first ``call`` spawns.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nvdra_core import log
from nvdra_core.clock import Deadline
from nvdra_core.errors import DeadlineError, HostError, NvmlError, NvmlHungError
from nvdra_core.value import Value
from nvdra_node.host.child import Child, ChildGoneError, LineChild
from nvdra_node.host.nvml_child import IDLE_STATUS

_LOG = log.get(__name__)

STALE_SESSION_CODES = frozenset({1, 9, 12, 18})
"""Uninitialized, driver not loaded, library not found, library and driver of different versions: the session cannot
become good again, as the driver was unloaded or replaced. The next call gets a fresh process."""

_KILL_WAIT_S = 0.25
_CLOSE_WAIT_S = 1.0
_PACKAGE_ROOT = Path(__file__).resolve().parents[2]
_START = (
    "import sys; sys.path += sys.argv[3:]; "
    "from nvdra_node.host.nvml_child import main; main(sys.argv[1], float(sys.argv[2]))"
)


class ChildSettings(Value, kw_only=True):
    """How the child lives."""

    idle_s: float = 10.0
    """The child ends after this time without a call, unless it collects events; 0: never."""
    max_abandoned: int = 4
    """So many unkillable children may exist before calls are refused at once."""


class ChildNvml:
    """See ports.Nvml. Safe for several threads.

    Besides the port's errors ``call`` raises DeadlineError when other calls kept this one from starting in time.
    """

    def __init__(
        self,
        library: Callable[[], Path],
        settings: ChildSettings | None = None,
        spawn: Callable[[Sequence[str]], LineChild] = Child.start,
    ) -> None:
        """``library`` finds libnvidia-ml.so.1, again at each start of a child; it raises HostError."""
        self._library = library
        self._settings = settings or ChildSettings()
        self._spawn = spawn
        self._turn = threading.Lock()
        self._child: LineChild | None = None
        self._abandoned: list[LineChild] = []
        self._requests = 0
        self.hangs = 0
        """Calls given up since start, for metrics."""

    @property
    def pid(self) -> int | None:
        """Process id of the child, for diagnosis; None when there is none."""
        child = self._child
        return child.pid if child is not None else None

    def call(self, operation: str, deadline: Deadline, **arguments: Any) -> Any:
        """See ports.Nvml."""
        with self._turn_within(deadline, operation):
            self._requests += 1
            request = {"id": self._requests, "op": operation, "args": arguments}
            try:
                answer = self._exchange(json.dumps(request).encode(), deadline, operation)
            except ChildGoneError as error:
                self._end()
                raise NvmlError(
                    f"nvml {operation}{_shown(arguments)}: {error}; it will be started again",
                    function=operation,
                    code=-1,
                ) from error
            if answer is None:
                self.hangs += 1
                self._end()
                raise NvmlHungError(
                    f"nvml {operation}{_shown(arguments)} did not return in time; "
                    "its process was given up",
                    function=operation,
                    code=-1,
                )
            return self._unwrap(answer, operation, arguments)

    def stuck(self) -> int:
        """See ports.Nvml."""
        with self._turn:
            self._reap()
            return len(self._abandoned)

    def close(self) -> None:
        """See ports.Nvml. A later call starts a new child.

        A call in progress is waited for, but not for long: one that hangs is given up, as at its deadline.
        """
        if not self._turn.acquire(timeout=_CLOSE_WAIT_S):
            if (child := self._child) is not None:
                child.give_up()
            if not self._turn.acquire(timeout=_CLOSE_WAIT_S):
                _LOG.warning("nvml process has more calls, leaving it behind", pid=self.pid)
                return
        try:
            self._end()
        finally:
            self._turn.release()

    @contextmanager
    def _turn_within(self, deadline: Deadline, operation: str) -> Iterator[None]:
        if not self._turn.acquire(timeout=deadline.remaining_s()):
            raise DeadlineError(f"nvml {operation}: other calls took all the time; try again")
        try:
            yield
        finally:
            self._turn.release()

    def _exchange(
        self, request: bytes, deadline: Deadline, operation: str
    ) -> dict[str, Any] | None:
        """Ask the child; None when it does not answer in time."""
        for is_last in (False, True):
            child = self._ensure_child(operation)
            try:
                child.send(request)
                line = child.receive(deadline)
            except ChildGoneError as error:
                if error.status != IDLE_STATUS or is_last:
                    raise
                # It went home before it read the request, so nothing was begun.
                self._end()
                continue
            return None if line is None else json.loads(line)
        raise AssertionError("unreachable")

    def _ensure_child(self, operation: str) -> LineChild:
        self._reap()
        if self._child is not None:
            return self._child
        if len(self._abandoned) >= self._settings.max_abandoned:
            raise NvmlHungError(
                f"{len(self._abandoned)} NVML processes hang in the kernel and cannot be killed; "
                "the node needs a GPU reset or a reboot",
                function=operation,
                code=-1,
            )
        self._child = self._spawn(_argv(self._library(), self._settings.idle_s))
        return self._child

    def _reap(self) -> None:
        self._abandoned = [child for child in self._abandoned if not child.reap()]

    def _end(self) -> None:
        child, self._child = self._child, None
        if child is not None and not child.kill(_KILL_WAIT_S):
            _LOG.warning("nvml process cannot be killed, leaving it behind", pid=child.pid)
            self._abandoned.append(child)

    def _unwrap(self, answer: dict[str, Any], operation: str, arguments: dict[str, Any]) -> Any:
        fault = answer.get("error")
        if fault is None:
            return answer["ok"]
        shown = f"nvml {operation}{_shown(arguments)}"
        if fault["kind"] == "nvml":
            if fault["code"] in STALE_SESSION_CODES:
                self._end()
            raise NvmlError(
                f"{shown}: {fault['function']}: {fault['message']} ({fault['code']})",
                function=fault["function"],
                code=fault["code"],
            )
        if fault["kind"] == "library":
            self._end()
            raise HostError(f"{shown}: the NVML library does not load: {fault['message']}")
        raise HostError(f"{shown}: {fault['message']}")


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
