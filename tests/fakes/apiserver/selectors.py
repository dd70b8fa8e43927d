"""Field and label selectors in their usual forms: ``a=b``, ``a!=b``, ``a``, ``!a``. Text in, predicate out."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from tests.fakes.apiserver.kinds import Kind
from tests.fakes.apiserver.status import StatusError

Predicate = Callable[[dict[str, Any]], bool]
TERM = re.compile(r"(!?)([\w./-]+)(?:(==|=|!=)([\w.-]*))?")


def parse_fields(text: str, kind: Kind) -> Predicate:
    """Raises StatusError (400) for a field that the kind cannot be selected by."""
    known = {"metadata.name", "metadata.namespace", *kind.fields}
    terms = _terms(text)
    for path, _, _ in terms:
        if path not in known:
            raise StatusError(400, f'field label not supported: "{path}"')
    return lambda obj: all(
        (_field(obj, path) == value) is is_equal for path, value, is_equal in terms
    )


def parse_labels(text: str) -> Predicate:
    """Raises StatusError (400) for another form; ``in`` and ``notin`` are not understood."""
    terms = _terms(text)

    def matches(obj: dict[str, Any]) -> bool:
        labels = obj["metadata"].get("labels") or {}
        return all(
            (key in labels if value is None else labels.get(key) == value) is is_wanted
            for key, value, is_wanted in terms
        )

    return matches


def _terms(text: str) -> list[tuple[str, str | None, bool]]:
    """Key, value (None: only the key), and whether it must be so."""
    found = []
    for term in filter(None, text.split(",")):
        match = TERM.fullmatch(term.strip())
        if match is None:
            raise StatusError(400, f"unable to parse selector: {text!r}")
        negation, key, operator, value = match.groups()
        found.append((key, value, not negation and operator != "!="))
    return found


def _field(obj: dict[str, Any], path: str) -> str:
    value: Any = obj
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return "" if value is None else str(value)
