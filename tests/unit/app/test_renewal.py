"""When a token is due for renewal, and the texts of refusals."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from nvdra_core.errors import ApiError
from nvdra_node.app import renewal
from nvdra_node.kube.token import TokenFacts
from tests.unit.kube.test_token import CLAIMS, encoded

DAY_S = 86400
BEGAN_S = 1_700_000_000
FACTS = TokenFacts(
    namespace="nvdra-system",
    account="nvdra-node",
    node="node-1",
    node_uid="7a1a",
    issued_at_s=BEGAN_S,
    expires_at_s=BEGAN_S + 8 * DAY_S,
)


@pytest.mark.parametrize(
    ("age_days", "reason"),
    [
        (-1.0, "before"),
        (-0.0005, ""),
        (0.0, ""),
        (1.9, ""),
        (2.0, "25%"),
        (6.3, "79%"),
        (7.9, "99%"),
        (8.0, "expired"),
        (4000.0, "expired"),
    ],
)
def test_token_is_due_after_a_quarter_or_with_a_wrong_clock(age_days: float, reason: str):
    said = renewal.due(FACTS, BEGAN_S + age_days * DAY_S)
    assert bool(said) == bool(reason)
    assert reason in said


def test_weekly_token_has_retries_for_days():
    assert (0.8 - renewal.RENEW_AT) * 7 > 2


def test_request_is_for_same_account_node_and_lifetime():
    asked = renewal.request(FACTS)
    assert asked["metadata"] == {"namespace": "nvdra-system", "name": "nvdra-node"}
    bound = {"apiVersion": "v1", "kind": "Node", "name": "node-1", "uid": "7a1a"}
    assert asked["spec"] == {"boundObjectRef": bound, "expirationSeconds": 8 * DAY_S}


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"node": "node-2"}, "node-2"),
        ({"node_uid": "other"}, "node-1"),
        ({"account": "default"}, "default"),
        ({"namespace": "kube-system"}, "kube-system"),
    ],
)
def test_token_for_another_identity_is_refused(change: dict[str, str], word: str):
    with pytest.raises(ApiError, match=word):
        renewal.checked(encoded(CLAIMS), replace(FACTS, **change))
    assert renewal.checked(encoded(CLAIMS), FACTS).expires_at_s == CLAIMS["exp"]


@pytest.mark.parametrize("text", ["", "no token", "a.b.c"])
def test_answer_without_a_token_is_refused(text: str):
    with pytest.raises(ApiError, match="answer"):
        renewal.checked(text, FACTS)


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, ("2023-11-22 22:13 UTC", "Node node-1", "nvdra.node.site")),
        (403, ("nvdra-system/nvdra-node may not renew", "chart nvdra")),
        (404, ("ServiceAccount nvdra-system/nvdra-node does not exist",)),
        (0, ("191.0 h left", "15 minutes")),
        (500, ("191.0 h left",)),
    ],
)
def test_refusal_explains_cause_and_remedy(status: int, words: tuple[str, ...]):
    said = renewal.explain(status, FACTS, BEGAN_S + 3600)
    assert [word for word in words if word not in said] == []


def test_expired_token_is_reported():
    assert "it has expired" in renewal.explain(0, FACTS, BEGAN_S + 9 * DAY_S)
