"""Reports the outcome of each prepare and unprepare to the claim's status and to the readiness checks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from nvdra_core.errors import ApiError, FileError
from nvdra_core.runtime.clock import Deadline
from nvdra_node.checkpoint.claim import ClaimRef
from nvdra_node.checkpoint.model import PreparedDevice


class ClaimHandler(Protocol):
    """Prepares and unprepares claims (``transaction.Transaction``)."""

    def prepare(self, ref: ClaimRef, deadline: Deadline) -> tuple[PreparedDevice, ...]:
        """See Transaction."""

    def unprepare(self, ref: ClaimRef, deadline: Deadline) -> None:
        """See Transaction."""


class ClaimStatus(Protocol):
    """The part of ``status_writer.ClaimStatusWriter`` that is needed."""

    def prepared(self, ref: ClaimRef, devices: tuple[PreparedDevice, ...]) -> None:
        """See ClaimStatusWriter."""

    def forget(self, ref: ClaimRef) -> None:
        """See ClaimStatusWriter."""


class ReportingHandler:
    """A ClaimHandler that reports outcomes of another one."""

    def __init__(
        self,
        handler: ClaimHandler,
        status: ClaimStatus,
        failed: Callable[[FileError | ApiError], None],
    ) -> None:
        """``failed`` gets errors that would fail other claims as well."""
        self._handler = handler
        self._status = status
        self._failed = failed

    def prepare(self, ref: ClaimRef, deadline: Deadline) -> tuple[PreparedDevice, ...]:
        """See ClaimHandler."""
        try:
            devices = self._handler.prepare(ref, deadline)
        except (FileError, ApiError) as error:
            self._failed(error)
            raise
        self._status.prepared(ref, devices)
        return devices

    def unprepare(self, ref: ClaimRef, deadline: Deadline) -> None:
        """See ClaimHandler."""
        self._handler.unprepare(ref, deadline)
        self._status.forget(ref)
