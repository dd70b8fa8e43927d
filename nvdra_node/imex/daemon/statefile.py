"""The supervisor's state and the controller's last spec <-> the bytes of their files. Pure. Called by ``store``.

A file may be of another release, newer or older, as after a rollback. A field that this release does not know is
dropped, one that is missing has its default, and one that cannot be read costs itself alone. A run that cannot be read
means that the daemon's configuration is not known; a claim that cannot be read, that the claims are not all known.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, get_type_hints

import msgspec
from msgspec.structs import replace

from nvdra_core.api.decode import decode_part
from nvdra_core.api.fabric import FabricDomain, FabricNodeSpec
from nvdra_core.errors import InvalidConfigError
from nvdra_core.runtime import log
from nvdra_node.imex.model import Holder, Memory, Run, Started

_LOG = log.get(__name__)
_V = TypeVar("_V", bound=msgspec.Struct)

_PROCESS_ONLY = frozenset({"retry_at_s", "idle_since_s", "ready_since_s", "start_error"})
"""Times of the monotonic clock, which are worth nothing in another process, and what goes with them."""
_RUNS = frozenset({"started", "last_run"})
_MEMORY_FIELDS = tuple(n for n in Memory.__struct_fields__ if n not in _PROCESS_ONLY | _RUNS)


class StoredState(msgspec.Struct, frozen=True, kw_only=True):
    """What an earlier supervisor of this boot left."""

    memory: Memory
    holders: tuple[Holder, ...]
    are_holders_complete: bool = True
    """False: a claim of the file cannot be read, so that the kubelet plugin must report its claims first."""
    hosts: str | None = None
    """Which hosts file and certificate the daemon has read; None: not known."""


def encode(boot_id: str, memory: Memory, holders: Iterable[Holder], hosts: str | None) -> bytes:
    """The file's bytes."""
    started, last_run, default = memory.started, memory.last_run, Memory()
    kept = {"started": msgspec.to_builtins(started) if started is not None else None}
    if last_run is not None:
        kept["last_run"] = msgspec.to_builtins(last_run)
    values = {name: getattr(memory, name) for name in _MEMORY_FIELDS}
    # Defaults are left out: an earlier release, as after a rollback, may refuse fields that it does not know.
    kept |= {name: value for name, value in values.items() if value != getattr(default, name)}
    body = {
        "bootID": boot_id,
        "memory": kept,
        "holders": [msgspec.to_builtins(holder) for holder in sorted(holders)],
        "hosts": hosts,
    }
    return json.dumps(body).encode()


def decode(data: bytes, boot_id: str) -> StoredState | None:
    """What the file says of this boot; None: nothing. Raises ValueError, TypeError, KeyError where it is no state."""
    body = json.loads(data)
    if body["bootID"] != boot_id:
        return None
    holders = [_holder(item) for item in body["holders"]]
    return StoredState(
        memory=_memory(body["memory"]),
        holders=tuple(holder for holder in holders if holder is not None),
        are_holders_complete=None not in holders,
        hosts=_converted(body.get("hosts"), str | None, None, "hosts"),
    )


def _memory(body: Mapping[str, Any]) -> Memory:
    hints = get_type_hints(Memory)
    default = Memory()
    values = {
        name: _converted(body[name], hints[name], getattr(default, name), name)
        for name in _MEMORY_FIELDS
        if name in body
    }
    runs = {"started": _started(body["started"]), "last_run": _last_run(body.get("last_run"))}
    return replace(Memory(**values), **runs)


def _last_run(body: Any) -> Run | None:
    try:
        return None if body is None else _built(Run, body)
    except (ValueError, TypeError, KeyError) as error:
        _LOG.warning("stored last IMEX run cannot be read", error=repr(error))
        return None


def _started(body: Mapping[str, Any] | None) -> Started | None:
    if body is None:
        return None
    try:
        run = _built(Run, body["run"])
        known = msgspec.convert(body["invocation_id"], str)
    except (ValueError, TypeError, KeyError) as error:
        _LOG.warning(
            "stored IMEX run cannot be read; a running daemon is left as it is", error=repr(error)
        )
        return None
    return Started(run=run, invocation_id=known, is_unsure=not known)


def _holder(body: Any) -> Holder | None:
    try:
        return _built(Holder, body)
    except (ValueError, TypeError, KeyError) as error:
        _LOG.warning(
            "stored claim cannot be read; waiting for the plugin's list", error=repr(error)
        )
        return None


def _built(kind: type[_V], body: Any) -> _V:
    """A value from those fields that this release knows, each of its type. Raises TypeError, ValueError, KeyError.

    A number that is a text would be found by the first decision, and again after each restart.
    """
    hints, given = get_type_hints(kind), dict(body)
    if (
        missing := {field.name for field in msgspec.structs.fields(kind) if field.required}
        - given.keys()
    ):
        raise KeyError(f"{kind.__name__}: {', '.join(sorted(missing))} missing")
    known = [name for name in kind.__struct_fields__ if name in given]
    return kind(**{name: msgspec.convert(given[name], hints[name]) for name in known})


def _converted(value: Any, kind: Any, default: Any, name: str) -> Any:
    try:
        return msgspec.convert(value, kind)
    except ValueError as error:
        _LOG.warning("stored field cannot be read; using its default", field=name, error=str(error))
        return default


def encode_spec(spec: FabricNodeSpec, generation: int) -> bytes:
    """The controller's spec and its generation."""
    return json.dumps({"spec": msgspec.to_builtins(spec), "generation": generation}).encode()


def read_spec(data: bytes) -> tuple[FabricNodeSpec, int]:
    """The same back. Raises InvalidConfigError, ValueError, TypeError, KeyError."""
    body = json.loads(data)
    return decode_spec(body["spec"]), int(body["generation"])


def decode_spec(value: Any) -> FabricNodeSpec:
    """``spec`` of a FabricNode. Raises InvalidConfigError.

    A domain that this release cannot read (a newer controller's isolation, for instance) is left out: its claims wait,
    and those of the others do not.
    """
    if isinstance(value, Mapping) and isinstance(value.get("domains"), list):
        value = {**value, "domains": [one for one in value["domains"] if _is_readable(one)]}
    return decode_part(value, FabricNodeSpec, where="FabricNode", strict=False)


def _is_readable(domain: Any) -> bool:
    try:
        decode_part(domain, FabricDomain, where="FabricNode domain", strict=False)
    except InvalidConfigError as error:
        _LOG.warning("domain of the FabricNode cannot be read; its claims wait", error)
        return False
    return True
