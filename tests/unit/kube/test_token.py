"""What a token says of itself, and that nothing of a damaged one is repeated."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from nvdra_core.errors import MalformedTextError
from nvdra_node.kube import token

CLAIMS = {
    "aud": ["https://kubernetes.default.svc"],
    "exp": 1_700_604_800,
    "iat": 1_700_000_000,
    "iss": "https://kubernetes.default.svc",
    "kubernetes.io": {
        "namespace": "nvdra-system",
        "node": {"name": "node-1", "uid": "7a1a"},
        "serviceaccount": {"name": "nvdra-node", "uid": "7a1b"},
    },
    "nbf": 1_700_000_000,
    "sub": "system:serviceaccount:nvdra-system:nvdra-node",
}


def encoded(claims: Any, signature: str = "c2ln") -> str:
    payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"e30.{payload}.{signature}"


def changed(**changes: Any) -> dict[str, Any]:
    return {key: value for key, value in {**CLAIMS, **changes}.items() if value is not None}


def test_node_token_has_account_node_and_lifetime():
    facts = token.parse(encoded(CLAIMS) + "\n")
    assert (facts.namespace, facts.account) == ("nvdra-system", "nvdra-node")
    assert (facts.node, facts.node_uid) == ("node-1", "7a1a")
    assert (facts.issued_at_s, facts.life_s) == (1_700_000_000, 7 * 86400)


def test_pod_token_names_no_node():
    claims = {"namespace": "a", "serviceaccount": {"name": "b"}, "pod": {"name": "c", "uid": "d"}}
    assert token.parse(encoded(changed(**{"kubernetes.io": claims}))).node == ""


@pytest.mark.parametrize(
    "text",
    [
        "",
        "secret",
        "a.b",
        "a.secret.c",
        encoded(changed(exp=None)),
        encoded(changed(iat="soon")),
        encoded(changed(exp=CLAIMS["iat"])),
        encoded(changed(**{"kubernetes.io": None})),
        encoded(changed(**{"kubernetes.io": []})),
        encoded(changed(**{"kubernetes.io": {"namespace": 1, "serviceaccount": {"name": "b"}}})),
        encoded(["secret"]),
        encoded(CLAIMS).rpartition(".")[0],
        encoded(CLAIMS) + ".more",
        "é.é.é",
    ],
)
def test_malformed_token_is_refused_and_not_quoted(text: str):
    with pytest.raises(MalformedTextError) as caught:
        token.parse(text)
    assert "secret" not in str(caught.value)
    shown = None if caught.value.__suppress_context__ else caught.value.__context__
    assert (caught.value.__cause__, shown) == (None, None), "its text would be in a traceback"
