"""FakeCommands: programs as Python functions, and a list of what was run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import msgspec

from nvdra_core.errors import CommandError
from nvdra_core.runtime.clock import Clock, Deadline
from nvdra_node.host.ports import CommandResult

_LATE = "did not end in time and was killed"


class Failure(msgspec.Struct, frozen=True):
    """How a program fails: its status and what it wrote."""

    status: int
    output: str = ""


class Hang(msgspec.Struct, frozen=True):
    """A program that does not end."""


Program = Callable[[Sequence[str]], "CommandResult | Failure | Hang | int"]
"""Gets argv; returns its output, or the status it fails with."""


def hang(argv: Sequence[str]) -> Hang:
    """A program that never ends: give it as the value in ``programs``."""
    return Hang()


class FakeCommands:
    """See ports.Commands. ``programs`` maps argv[0] to what it does; all others do not exist."""

    def __init__(self, clock: Clock, programs: dict[str, Program] | None = None) -> None:
        self.programs: dict[str, Program] = dict(programs or {})
        self.history: list[tuple[str, ...]] = []
        self._clock = clock
        self._is_closed = threading.Event()

    def close(self) -> None:
        """See ports.Commands."""
        self._is_closed.set()

    def run(self, argv: Sequence[str], deadline: Deadline) -> CommandResult:
        """See ports.Commands."""
        self.history.append(tuple(argv))
        program = self.programs.get(argv[0])
        if program is None:
            raise _error(argv, "could not be started: no such file", None)
        if self._is_closed.is_set():
            raise _error(argv, "was killed because the service stops", None)
        result = program(argv)
        if isinstance(result, CommandResult):
            return result
        if isinstance(result, Hang):
            self._clock.wait(self._is_closed, deadline.remaining_s())
            is_closed = self._is_closed.is_set()
            why = "was killed because the service stops" if is_closed else _LATE
            raise _error(argv, why, None)
        failure = result if isinstance(result, Failure) else Failure(result)
        raise _error(argv, f"ended with status {failure.status}", failure.status, failure.output)


def _error(
    argv: Sequence[str], message: str, returncode: int | None, output: str = ""
) -> CommandError:
    shown = f"{message}: {output}" if output else message
    return CommandError(
        f"{' '.join(argv)}: {shown}", argv=tuple(argv), returncode=returncode, output=output
    )
