"""FakeCommands: programs as Python functions, and a list of what was run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from nvdra_core.clock import Clock, Deadline
from nvdra_core.errors import CommandError
from nvdra_node.host.ports import CommandResult

Program = Callable[[Sequence[str]], "CommandResult | int"]
"""Gets argv; returns its output, or the status it fails with."""


def hang(argv: Sequence[str]) -> int:
    """A program that does not end: give it as the value in ``programs``."""
    raise AssertionError(f"{argv[0]} is recognised and never called")


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
        if program is hang:
            self._clock.wait(self._is_closed, deadline.remaining_s())
        if self._is_closed.is_set():
            raise _error(argv, "was killed, as the service ends", None)
        if program is hang:
            raise _error(argv, "did not end in time and was killed", None)
        result = program(argv)
        if isinstance(result, CommandResult):
            return result
        raise _error(argv, f"ended with status {result}", result)


def _error(argv: Sequence[str], message: str, returncode: int | None) -> CommandError:
    return CommandError(
        f"{' '.join(argv)}: {message}", argv=tuple(argv), returncode=returncode, output=""
    )
