"""The fake's remote control under ``/_fake/``: faults, outages, counts, objects in bulk, versions, gates and tokens.

Every POST takes a JSON object and answers one. Meant for test code in other processes; see COMMANDS for the words.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tests.fakes.apiserver import population
from tests.fakes.apiserver.api import CONTROL_PREFIX, decode, refusal
from tests.fakes.apiserver.faults import Fault
from tests.fakes.apiserver.kinds import Route
from tests.fakes.apiserver.messages import HttpRequest, Reply
from tests.fakes.apiserver.population import ClaimPattern
from tests.fakes.apiserver.status import StatusError
from tests.fakes.apiserver.store import encode

if TYPE_CHECKING:
    from tests.fakes.apiserver.server import FakeApiServer

JsonObject = dict[str, Any]


class Control:
    """See the module."""

    def __init__(self, server: FakeApiServer) -> None:
        self._server = server
        self._api = server.api
        self.commands: dict[tuple[str, str], Callable[[JsonObject], JsonObject]] = {
            ("GET", "stats"): self._stats,
            ("DELETE", "stats"): self._reset_stats,
            ("GET", "faults"): lambda _: {"faults": self._api.faults.listing()},
            ("POST", "faults"): self._add_fault,
            ("DELETE", "faults"): self._clear_faults,
            ("POST", "outage"): self._outage,
            ("POST", "claims"): self._create_claims,
            ("POST", "objects"): self._create_objects,
            ("POST", "versions"): self._serve_versions,
            ("POST", "gates"): self._set_gates,
            ("POST", "tokens"): self._mint,
            ("POST", "compact"): self._compact,
            ("POST", "end-watches"): self._end_watches,
            ("POST", "end-connections"): self._end_connections,
        }

    def answer(self, request: HttpRequest, route: Route) -> Reply:
        """Carry a command out."""
        word = route.path.removeprefix(CONTROL_PREFIX).strip("/")
        command = self.commands.get((request.method, word))
        try:
            if command is None:
                known = ", ".join(f"{method} {name}" for method, name in sorted(self.commands))
                raise StatusError(404, f"no such command; there are: {known}")
            return Reply(200, encode(command(decode(request.body))))
        except StatusError as error:
            return refusal(error)
        except (TypeError, ValueError, KeyError) as error:
            return refusal(StatusError(400, f"{word}: {error}"))

    def _stats(self, _: JsonObject) -> JsonObject:
        times = os.times()
        return {
            **self._api.log.summary(),
            "cpu_s": times.user + times.system,
            "threads": threading.active_count(),
            "resource_version": self._api.store.version,
        }

    def _reset_stats(self, _: JsonObject) -> JsonObject:
        self._api.log.clear()
        return {}

    def _add_fault(self, body: JsonObject) -> JsonObject:
        self._api.faults.add(Fault(**body))
        return {}

    def _clear_faults(self, _: JsonObject) -> JsonObject:
        self._api.faults.clear()
        return {}

    def _outage(self, body: JsonObject) -> JsonObject:
        if body["on"]:
            self._server.stop()
        else:
            self._server.start()
        return {}

    def _create_claims(self, body: JsonObject) -> JsonObject:
        created = [self._server.add(claim) for claim in population.claims(ClaimPattern(**body))]
        keys = ("namespace", "name", "uid")
        return {"claims": [{key: claim["metadata"][key] for key in keys} for claim in created]}

    def _create_objects(self, body: JsonObject) -> JsonObject:
        return {"items": [self._server.add(obj) for obj in body["items"]]}

    def _serve_versions(self, body: JsonObject) -> JsonObject:
        self._api.router.serve_versions(tuple(body["versions"]))
        return {}

    def _set_gates(self, body: JsonObject) -> JsonObject:
        unknown = sorted(set(body) - set(self._api.writer.gates))
        if unknown:
            raise ValueError(f"unknown feature gates: {', '.join(unknown)}")
        self._api.writer.gates.update(body)
        return {"gates": self._api.writer.gates}

    def _mint(self, body: JsonObject) -> JsonObject:
        groups = body.get("groups", [])
        return {"token": self._server.token_for(body["name"], *groups, node=body.get("node", ""))}

    def _compact(self, _: JsonObject) -> JsonObject:
        self._api.store.compact()
        self._api.reader.forget_pages()
        return {}

    def _end_watches(self, _: JsonObject) -> JsonObject:
        self._api.reader.end_watches()
        return {}

    def _end_connections(self, _: JsonObject) -> JsonObject:
        self._server.end_connections()
        return {}
