"""The supervisor's state and the last FabricNode spec <-> JSON files. Pure. Called by ``store``.

A file may be of another release, as after a rollback: unknown fields are dropped, missing ones have their default, and
an unreadable one costs itself alone. An unreadable run means that the daemon's configuration is unknown; an unreadable
claim, that not all claims are known.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import msgspec
from msgspec.structs import replace

from nvdra_core.api.decode import decode_part
from nvdra_core.api.fabric import FabricDomain, FabricNodeSpec
from nvdra_core.errors import InvalidConfigError
from nvdra_core.runtime import log
from nvdra_node.imex.model import Holder, Memory, Started

_LOG = log.get(__name__)
_T = TypeVar("_T")

_PROCESS_ONLY = frozenset({"retry_at_s", "idle_since_s", "ready_since_s", "start_error"})
"""Fields of Memory that are not stored: monotonic times mean nothing in another process."""
_STORED = tuple(f for f in msgspec.structs.fields(Memory) if f.name not in _PROCESS_ONLY)


class StoredState(msgspec.Struct, frozen=True, kw_only=True):
    """What an earlier supervisor of this boot left."""

    memory: Memory
    holders: tuple[Holder, ...]
    are_holders_complete: bool = True
    """False: a claim is unreadable, so the kubelet plugin must report its claims first."""
    loaded_files: str | None = None
    """Digest of the hosts file and certificate that the daemon has read; None: unknown."""


class _StateFile(msgspec.Struct, kw_only=True):
    """Its values are decoded one by one, so that one of another release costs itself alone."""

    boot_id: str = msgspec.field(name="bootID")
    memory: Mapping[str, msgspec.Raw]
    holders: list[msgspec.Raw]
    hosts: msgspec.Raw = msgspec.Raw(b"null")


class _SpecFile(msgspec.Struct):
    spec: dict[str, Any]
    generation: int


def encode(
    boot_id: str, memory: Memory, holders: Iterable[Holder], loaded_files: str | None
) -> bytes:
    """State file. Defaults are left out: an earlier release may refuse unknown fields."""
    values = {f.name: getattr(memory, f.name) for f in _STORED}
    changed = {name: value for name, value in values.items() if value != getattr(Memory(), name)}
    body = {
        "bootID": boot_id,
        "memory": {"started": None, **changed},
        "holders": sorted(holders),
        "hosts": loaded_files,
    }
    return msgspec.json.encode(body)


def decode(data: bytes, boot_id: str) -> StoredState | None:
    """State of this boot; None where the file is of another one. Raises ValueError for a file of another shape."""
    file = msgspec.json.decode(data, type=_StateFile)
    if file.boot_id != boot_id:
        return None
    if "started" not in file.memory:
        raise ValueError("memory: started is missing")
    holders = [_read(raw, Holder, None, "claim") for raw in file.holders]
    return StoredState(
        memory=_memory(file.memory),
        holders=tuple(holder for holder in holders if holder is not None),
        are_holders_complete=None not in holders,
        loaded_files=_read(file.hosts, str | None, None, "hosts"),
    )


def _memory(fields: Mapping[str, msgspec.Raw]) -> Memory:
    values = {
        f.name: _read(fields[f.name], f.type, f.default, f.name)
        for f in _STORED
        if f.name in fields
    }
    started: Started | None = values["started"]
    if started is not None:
        # Without an id the earlier supervisor ended while it started the daemon.
        values["started"] = replace(started, is_unsure=not started.invocation_id)
    return Memory(**values)


def _read(raw: msgspec.Raw, kind: Any, default: Any, name: str) -> Any:
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.DecodeError as error:
        _LOG.warning("ignoring unreadable value of the state file", field=name, error=str(error))
        return default


def encode_spec(spec: FabricNodeSpec, generation: int) -> bytes:
    """File with the last FabricNode spec and its generation."""
    return msgspec.json.encode({"spec": spec, "generation": generation})


def read_spec(data: bytes) -> tuple[FabricNodeSpec, int]:
    """Spec and generation of the file. Raises InvalidConfigError or ValueError."""
    file = msgspec.json.decode(data, type=_SpecFile)
    return decode_spec(file.spec), file.generation


def decode_spec(value: Any) -> FabricNodeSpec:
    """``spec`` of a FabricNode. Raises InvalidConfigError.

    A domain that this release cannot read (such as an isolation of a later one) is left out, so that only its own
    claims wait.
    """
    if isinstance(value, Mapping) and isinstance(value.get("domains"), list):
        value = {**value, "domains": [one for one in value["domains"] if _is_readable(one)]}
    return decode_part(value, FabricNodeSpec, where="FabricNode", strict=False)


def _is_readable(domain: Any) -> bool:
    try:
        decode_part(domain, FabricDomain, where="FabricNode domain", strict=False)
    except InvalidConfigError as error:
        _LOG.warning("ignoring unreadable domain of the FabricNode; its claims wait", error)
        return False
    return True
