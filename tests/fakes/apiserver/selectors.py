"""Field and label selectors, as the API server reads them. Pure: text in, predicate on a stored object out."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from tests.fakes.apiserver.kinds import Kind
from tests.fakes.apiserver.status import StatusError

Predicate = Callable[[dict[str, Any]], bool]
LABEL_TERM = re.compile(
    r"\s*(!?)\s*([\w./-]+)\s*(?:(in|notin)\s*\(([^)]*)\)|(==|=|!=)\s*([\w.-]*))?\s*"
)


def parse_fields(text: str, kind: Kind) -> Predicate:
    """``a=b,c!=d``; raises StatusError (400) for a field that the kind cannot be selected by."""
    terms: list[tuple[tuple[str, ...], str, bool]] = []
    for term in filter(None, text.split(",")):
        match = re.fullmatch(r"([\w.]+?)(==|=|!=)(.*)", term)
        if match is None:
            raise StatusError(400, f"invalid field selector: {term!r}")
        path, operator, value = match.groups()
        if path not in {"metadata.name", *kind.fields} and not (
            path == "metadata.namespace" and kind.namespaced
        ):
            raise StatusError(400, f'field label not supported: "{path}"')
        terms.append((tuple(path.split(".")), value, operator != "!="))
    return lambda obj: all((_field(obj, path) == value) is wanted for path, value, wanted in terms)


def parse_labels(text: str) -> Predicate:
    """``a=b,c!=d,e in (f,g),h,!i``; raises StatusError (400)."""
    terms: list[Callable[[dict[str, str]], bool]] = []
    position = 0
    while position < len(text):
        match = LABEL_TERM.match(text, position)
        if match is None:
            raise StatusError(400, f"unable to parse label selector: {text!r}")
        terms.append(_label_term(match))
        position = match.end()
        if position < len(text):
            if text[position] != ",":
                raise StatusError(400, f"unable to parse label selector: {text!r}")
            position += 1
    return lambda obj: all(term(_labels(obj)) for term in terms)


def _label_term(match: re.Match[str]) -> Callable[[dict[str, str]], bool]:
    negation, key, set_operator, members, operator, value = match.groups()
    if set_operator:
        chosen = {member.strip() for member in members.split(",")}
        if set_operator == "in":
            return lambda labels: labels.get(key) in chosen
        return lambda labels: labels.get(key) not in chosen
    if operator == "!=":
        return lambda labels: labels.get(key) != value
    if operator:
        return lambda labels: labels.get(key) == value
    return lambda labels: (key in labels) is not bool(negation)


def _labels(obj: dict[str, Any]) -> dict[str, str]:
    return obj["metadata"].get("labels") or {}


def _field(obj: dict[str, Any], path: tuple[str, ...]) -> str:
    value: Any = obj
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    if value is None:
        return "false" if path == ("spec", "unschedulable") else ""
    return str(value).lower() if isinstance(value, bool) else str(value)
