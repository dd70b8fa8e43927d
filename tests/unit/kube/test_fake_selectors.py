"""Field and label selectors of the in-memory API server."""

from __future__ import annotations

import pytest

from tests.fakes.apiserver.kinds import KINDS
from tests.fakes.apiserver.selectors import parse_fields, parse_labels
from tests.fakes.apiserver.status import StatusError

SLICES = next(kind for kind in KINDS if kind.plural == "resourceslices")
OBJECT = {
    "metadata": {"name": "s", "labels": {"app": "x", "a.b/c": "y"}},
    "spec": {"driver": "d", "allNodes": True},
}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", True),
        ("spec.driver=d", True),
        ("spec.driver==d,metadata.name=s", True),
        ("spec.driver!=d", False),
        ("spec.nodeName=", True),
        ("spec.nodeName=n", False),
    ],
)
def test_field_selector_matches(text: str, wanted: bool) -> None:
    assert parse_fields(text, SLICES)(OBJECT) is wanted


@pytest.mark.parametrize("text", ["spec.pool.name=p", "nonsense"])
def test_unsupported_field_is_refused(text: str) -> None:
    with pytest.raises(StatusError):
        parse_fields(text, SLICES)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", True),
        ("app=x", True),
        ("app==x, a.b/c", True),
        ("app!=x", False),
        ("other!=x", True),
        ("other", False),
        ("!other", True),
        ("!app", False),
        ("app=x,!other,a.b/c=y", True),
    ],
)
def test_label_selector_matches(text: str, wanted: bool) -> None:
    assert parse_labels(text)(OBJECT) is wanted


@pytest.mark.parametrize("text", ["app in (x)", "=x", "app=x;b"])
def test_malformed_label_selector_is_refused(text: str) -> None:
    with pytest.raises(StatusError):
        parse_labels(text)
