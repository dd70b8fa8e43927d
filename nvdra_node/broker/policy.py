"""Requests of the broker, and which unit may do what to which unit. Pure.

Everything that is not listed is refused. See docs/decisions/0009-a-broker-starts-units.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec

from nvdra_core.errors import UnitRequestError

BROKER = "nvdra-unit-broker.service"
SUPERVISOR = "nvdra-imex-supervisor.service"

Verb = Literal["ping", "show", "start", "stop", "reload", "reset-failed"]

_READ: frozenset[Verb] = frozenset({"show"})
_CONTROL: frozenset[Verb] = frozenset({"show", "start", "stop", "reload", "reset-failed"})

PERMISSIONS: Mapping[str, Mapping[str, frozenset[Verb]]] = {
    SUPERVISOR: {
        "nvdra-imex.service": _CONTROL,
        # NVIDIA's own unit, which may hold the host's IMEX session.
        "nvidia-imex.service": _READ,
    },
    BROKER: {},  # its self-check: ping
}
"""Unit of the caller -> unit -> verbs. Every caller may ping."""

MAX_UNITS = 8


class Request(msgspec.Struct, rename="camel", frozen=True):
    """One line of a caller. Unknown fields are ignored: during an upgrade the caller may be newer."""

    verb: Verb
    units: Annotated[
        list[Annotated[str, msgspec.Meta(max_length=255)]], msgspec.Meta(max_length=MAX_UNITS)
    ] = []
    timeout_seconds: Annotated[float, msgspec.Meta(gt=0)] = 30.0


def parse(line: bytes) -> Request:
    """Decode a line. Raises UnitRequestError."""
    try:
        request = msgspec.json.decode(line, type=Request)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:  # ValidationError is one
        raise UnitRequestError(f"invalid request: {error}") from error
    count = len(request.units)
    is_fit = {"ping": count == 0, "show": count >= 1}.get(request.verb, count == 1)
    if not is_fit:
        raise UnitRequestError(f"invalid request: {request.verb} of {count} units")
    return request


def check(caller: str, request: Request) -> None:
    """Raise UnitRequestError if the caller has no permission."""
    permitted = PERMISSIONS.get(caller, {})
    for unit in request.units:
        if request.verb not in permitted.get(unit, frozenset()):
            raise UnitRequestError(f"{request.verb} {unit!r}: not permitted to {caller}")
