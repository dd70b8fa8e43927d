"""Questions about effects that every driver has, whatever its effects are. Pure. Used by drivers and ``transaction``.

Several claims may share a device and so want the same effect. It is applied for each (idempotent), undone when the
last of them goes, and back to the state that the *first* of them found.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from nvdra_node.checkpoint.model import Record
from nvdra_node.kubeletplugin.driver import Effect

ORIGINAL = "original"


def identity(effect: Effect) -> dict[str, Any]:
    """What makes an effect the same effect: all but what ``capture`` found."""
    return {key: value for key, value in effect.items() if key != ORIGINAL}


def find(effect: Effect, among: Iterable[Effect]) -> Effect | None:
    """The effect as it stands in ``among``, with its original; None when it is not there."""
    wanted = identity(effect)
    return next((other for other in among if identity(other) == wanted), None)


def adopt(effects: Iterable[Effect], others: Iterable[Record]) -> tuple[Effect, ...]:
    """For ``plan``: take over the originals of claims that already brought the same effects about."""
    present = [effect for record in others for effect in record.effects]
    return tuple(find(effect, present) or effect for effect in effects)


def unneeded(record: Record, others: Iterable[Record]) -> Sequence[Effect]:
    """For ``release``: the record's effects that no other claim wants, last first."""
    needed = [effect for other in others for effect in other.effects]
    return [effect for effect in reversed(record.effects) if find(effect, needed) is None]
