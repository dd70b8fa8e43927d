"""Claims of a ServiceAccount's token (a JWT): account, Node, lifetime. Decoded, not verified. Pure.

Source: KEP-1205, KEP-4193.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any

import msgspec

from nvdra_core.errors import MalformedTextError


class TokenFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Times are seconds since the epoch, by the API server's clock. Empty names: bound to no Node."""

    namespace: str
    account: str
    node: str
    node_uid: str
    issued_at_s: int
    expires_at_s: int

    @property
    def life_s(self) -> int:
        """How long the token is good in all."""
        return self.expires_at_s - self.issued_at_s


def parse(token: str) -> TokenFacts:
    """The facts of a token. Raises MalformedTextError, which never quotes it."""
    parts = token.strip().split(".")
    try:
        payload = json.loads(base64.urlsafe_b64decode(parts[1] + "=="))
        claims = payload["kubernetes.io"]
        node = claims.get("node") or {}
        facts = TokenFacts(
            namespace=_text(claims["namespace"]),
            account=_text(claims["serviceaccount"]["name"]),
            node=_text(node.get("name", "")),
            node_uid=_text(node.get("uid", "")),
            issued_at_s=int(payload["iat"]),
            expires_at_s=int(payload["exp"]),
        )
    except (
        binascii.Error, ValueError, LookupError, TypeError, AttributeError, OverflowError
    ):  # fmt: skip
        # Not chained: the errors of the decoders quote what they met.
        raise MalformedTextError("not a token of a ServiceAccount that expires") from None
    if len(parts) != 3 or facts.life_s <= 0:
        raise MalformedTextError("not a token of a ServiceAccount that expires")
    return facts


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("not a text")
    return value
