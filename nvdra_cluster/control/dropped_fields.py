"""Detects a CustomResourceDefinition of another release: the API server drops fields it does not know.

Helm never upgrades existing definitions, and another driver's chart may have installed them. Called by ``responses``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nvdra_cluster.decide.writes import Merge, Write
from nvdra_core.kube.resources import JsonObject
from nvdra_core.runtime import log

_LOG = log.get(__name__)


def dropped(write: Write, stored: JsonObject) -> tuple[str, ...]:
    """Fields of ``spec`` or ``status`` that were written and not stored."""
    if not isinstance(write, Merge):
        return ()
    return tuple(
        f"{part}.{key}"
        for part in ("spec", "status")
        for key, value in (write.patch.get(part) or {}).items()
        if value is not None and key not in _part(stored, part)
    )


class DroppedFieldDetector:
    """Logs each dropped field once."""

    def __init__(self) -> None:
        self.logged: set[tuple[str, str]] = set()

    def check(self, write: Write, stored: JsonObject) -> None:
        """Compare the response with what was written."""
        plural = write.resource.plural
        new = [name for name in dropped(write, stored) if (plural, name) not in self.logged]
        if new:
            self.logged |= {(plural, name) for name in new}
            _LOG.warning(
                "API server drops fields: the CustomResourceDefinition is of another release; "
                "apply those of this chart (charts/nvdra/crds)",
                kind=plural,
                fields=", ".join(new),
            )


def _part(obj: JsonObject, part: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = obj.get(part) or {}
    return found
