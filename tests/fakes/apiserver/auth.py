"""Who a caller is, by bearer token or client certificate. What each may do is checked on the real API server only."""

from __future__ import annotations

import base64
import json
import secrets
import threading
from dataclasses import dataclass, field
from typing import Any

from tests.fakes.apiserver.status import StatusError

JsonObject = dict[str, Any]
NODE_EXTRA = "authentication.kubernetes.io/node-name"
ADMIN_TOKEN = "fake-admin-token"


@dataclass(frozen=True, slots=True)
class User:
    """A caller. ``extra`` maps keys to lists of values, as in UserInfo."""

    name: str
    groups: tuple[str, ...] = ()
    extra: dict[str, list[str]] = field(default_factory=dict)

    @property
    def node(self) -> str:
        """The Node that the caller's token is bound to; empty for others."""
        values = self.extra.get(NODE_EXTRA, [])
        return values[0] if len(values) == 1 else ""


ADMIN = User("admin", ("system:masters",))


class Authenticator:
    """Tokens and their users. Not enforced: a caller without a known credential is the administrator."""

    def __init__(self, *, is_enforced: bool) -> None:
        self.is_enforced = is_enforced
        self._lock = threading.Lock()
        self._tokens: dict[str, User] = {ADMIN_TOKEN: ADMIN}

    def add_token(self, token: str, user: User) -> None:
        """Let a bearer token stand for a user."""
        with self._lock:
            self._tokens[token] = user

    def remove_token(self, token: str) -> None:
        """Let a token expire."""
        with self._lock:
            self._tokens.pop(token, None)

    def mint(self, user: User, claims: JsonObject | None = None) -> str:
        """A new token for a user, of the form of a JWT; with ``claims`` as its payload."""
        parts = [secrets.token_urlsafe(16) for _ in range(3)]
        if claims is not None:
            payload = base64.urlsafe_b64encode(json.dumps(claims).encode())
            parts[1] = payload.decode().rstrip("=")
        token = ".".join(parts)
        self.add_token(token, user)
        return token

    def authenticate(self, authorization: bytes, peer: User | None) -> User:
        """The caller behind a header or a client certificate; raises StatusError (401)."""
        # The scheme is case-insensitive (RFC 9110); the kubernetes package sends "bearer".
        scheme, _, value = authorization.partition(b" ")
        token = (value if scheme.lower() == b"bearer" else authorization).decode("latin-1")
        user = self._tokens.get(token) if token else peer
        if user is not None:
            return user
        if self.is_enforced:
            raise StatusError(401, "Unauthorized")
        return peer or ADMIN
