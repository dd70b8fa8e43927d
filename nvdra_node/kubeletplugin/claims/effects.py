"""Rules for effects of all drivers and kinds. Pure. Used by drivers and ``journal``.

An effect is JSON with three parts: what the plan wants, ``original`` (what ``capture`` found) and ``outcome`` (what
``apply`` returned). Claims that share a device may want the same effect: it is applied for each (idempotent), undone
with the last of them, to the state that the first of them found.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from nvdra_node.checkpoint.model import Record
from nvdra_node.kubeletplugin.driver import Effect, Outcome

ORIGINAL = "original"
OUTCOME = "outcome"


def identity(effect: Effect) -> dict[str, Any]:
    """The part that the plan wants: effects with equal identity are the same effect."""
    return {key: value for key, value in effect.items() if key not in (ORIGINAL, OUTCOME)}


def find(effect: Effect, among: Iterable[Effect]) -> Effect | None:
    """The same effect in ``among``, with its original and outcome; None when it is not there."""
    wanted = identity(effect)
    return next((other for other in among if identity(other) == wanted), None)


def adopt(effects: Iterable[Effect], others: Iterable[Record]) -> tuple[Effect, ...]:
    """For ``plan``: the effects with the originals of other claims' records that have the same effects."""
    present = [effect for record in others for effect in record.effects]
    return tuple(_without_outcome(find(effect, present) or effect) for effect in effects)


def with_outcome(effect: Effect, outcome: Outcome) -> Effect:
    """The effect as a record keeps it once it was applied."""
    return {**effect, OUTCOME: dict(outcome)} if outcome else effect


def unneeded(record: Record, others: Iterable[Record]) -> Sequence[Effect]:
    """For ``release``: the record's effects that no other claim wants, in reverse order."""
    needed = [effect for other in others for effect in other.effects]
    return [effect for effect in reversed(record.effects) if find(effect, needed) is None]


def _without_outcome(effect: Effect) -> Effect:
    return {key: value for key, value in effect.items() if key != OUTCOME}
