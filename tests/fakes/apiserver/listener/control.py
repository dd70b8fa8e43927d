"""The fake's remote control under ``/_fake/``, for a test or benchmark in another process.

GET ``stats`` answers the request counts; POST ``objects`` creates objects with their status.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.fakes.apiserver.api import CONTROL_PREFIX, decode, refusal
from tests.fakes.apiserver.kinds import Route
from tests.fakes.apiserver.listener.messages import HttpRequest, Reply
from tests.fakes.apiserver.status import StatusError
from tests.fakes.apiserver.store import encode

if TYPE_CHECKING:
    from tests.fakes.apiserver.server import FakeApiServer

JsonObject = dict[str, Any]


class Control:
    """See the module."""

    def __init__(self, server: FakeApiServer) -> None:
        self._server = server

    def answer(self, request: HttpRequest, route: Route) -> Reply:
        """Carry a command out."""
        word = route.path.removeprefix(CONTROL_PREFIX).strip("/")
        try:
            return Reply(200, encode(self._do(request.method, word, decode(request.body))))
        except StatusError as error:
            return refusal(error)

    def _do(self, method: str, word: str, body: JsonObject) -> JsonObject:
        if (method, word) == ("GET", "stats"):
            return self._server.api.log.summary()
        if (method, word) == ("POST", "objects"):
            return {"items": [self._server.add(obj) for obj in body["items"]]}
        raise StatusError(404, f"no command {method} {word}")
