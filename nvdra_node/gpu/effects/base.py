"""The protocol of an effect, and the dispatch by its tag ``kind``. Used by ``gpu.driver``.

To add an effect: a module with a handler here, and a line in ``gpu.registry``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

import msgspec

from nvdra_core.errors import HostError
from nvdra_core.runtime.clock import Deadline
from nvdra_node.kubeletplugin.driver import Effect, Outcome

T = TypeVar("T")


class EffectHandler(Protocol):
    """One kind of host change. Thread safe; callers hold the locks of the hardware.

    Every method works from the effect alone, with its ``original`` and ``outcome``: the hardware may have left NVML.
    """

    kind: str
    """The effect's tag."""

    def capture(self, effect: Effect, deadline: Deadline) -> Effect:
        """See ``Driver.capture``."""

    def apply(self, effect: Effect, deadline: Deadline) -> Outcome:
        """See ``Driver.apply``."""

    def undo(self, effect: Effect, deadline: Deadline) -> None:
        """See ``Driver.undo``."""

    def verify(self, effect: Effect, deadline: Deadline) -> None:
        """Check that the effect is in force. Raises EffectLostError, NotReadyError, HostError."""

    def owed(self) -> Sequence[str]:
        """See ``Driver.owed``."""

    def settle(self, hold: str, deadline: Deadline) -> None:
        """See ``Driver.settle``, for one hold."""


class Effects:
    """All effects of the GPU driver."""

    def __init__(self, handlers: Sequence[EffectHandler]) -> None:
        self._handlers = {handler.kind: handler for handler in handlers}

    def handler(self, effect: Effect) -> EffectHandler:
        """The handler of an effect. Raises HostError: its record is from a newer release.

        Refused by name, so that a downgrade cannot silently leave an effect behind.
        """
        kind = str(effect.get("kind"))
        if kind not in self._handlers:
            raise HostError(
                f"a claim's record has an effect of kind {kind!r}, which this release does not know: "
                "install the release that prepared the claim, or a newer one"
            )
        return self._handlers[kind]

    def owed(self) -> tuple[str, ...]:
        """Holds with debts, sorted. Raises HostError."""
        holds = {hold for handler in self._handlers.values() for hold in handler.owed()}
        return tuple(sorted(holds))

    def settle(self, hold: str, deadline: Deadline) -> None:
        """Undo the debts of one hold. Raises HostError, NotReadyError."""
        for handler in self._handlers.values():
            handler.settle(hold, deadline)


def decode(effect: Effect, form: type[T]) -> T:
    """A typed effect from its JSON. Raises HostError."""
    try:
        return msgspec.convert(effect, form)
    except msgspec.ValidationError as error:
        raise HostError(
            f"a claim's record has a malformed {effect.get('kind')} effect: {error}"
        ) from error


def encode(effect: msgspec.Struct) -> dict[str, Any]:
    """The JSON of a typed effect."""
    body: dict[str, Any] = msgspec.to_builtins(effect)
    return body
