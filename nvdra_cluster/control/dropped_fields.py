"""Notices a CustomResourceDefinition of another release: the API server drops fields that it does not know.

Called by ``loop``.
Helm leaves definitions that are there as they are, also those of another driver's chart; without a word
the conditions of domains would simply be missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nvdra_cluster.decide.writes import Merge, Write
from nvdra_core.kube.resources import JsonObject
from nvdra_core.runtime import log

_LOG = log.get(__name__)


def dropped(write: Write, stored: JsonObject) -> tuple[str, ...]:
    """Fields of ``spec`` or ``status`` that were written and are not there."""
    if not isinstance(write, Merge):
        return ()
    return tuple(
        f"{part}.{key}"
        for part in ("spec", "status")
        for key, value in (write.patch.get(part) or {}).items()
        if value is not None and key not in _part(stored, part)
    )


class DroppedFieldDetector:
    """Says each dropped field once."""

    def __init__(self) -> None:
        self.told: set[tuple[str, str]] = set()

    def look(self, write: Write, stored: JsonObject) -> None:
        """Compare the answer to a write with what was written."""
        plural = write.resource.plural
        news = [field for field in dropped(write, stored) if (plural, field) not in self.told]
        if news:
            self.told |= {(plural, field) for field in news}
            _LOG.warning(
                "the API server drops fields: the CustomResourceDefinition is of another release; "
                "apply those of this chart (charts/nvdra/crds)",
                kind=plural,
                fields=", ".join(news),
            )


def _part(obj: JsonObject, part: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = obj.get(part) or {}
    return found
