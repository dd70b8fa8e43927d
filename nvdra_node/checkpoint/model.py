"""The record of one claim: what was started, what was promised. Stored by ``store``, written by the transaction.

States: *started* (effects may have been applied, in whole or in part) and *completed* (the answer was, or could have
been, given). No record: nothing was done.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any

import msgspec

SCHEMA_VERSION = 1


class RecordState(str, Enum):
    """How far the preparation of a claim got."""

    STARTED = "started"
    COMPLETED = "completed"


class PreparedDevice(msgspec.Struct, frozen=True, kw_only=True):
    """One device as it was given to a claim: what the kubelet is told, again and again the same."""

    request: str
    """Main request name (no sub-request)."""
    pool: str
    device: str
    cdi_ids: tuple[str, ...]
    share_id: str | None = None
    admin_access: bool = False
    kind: str = "unknown"
    """Metric label ``device_type``: gpu, mig, vfio, channel, daemon."""
    details: Mapping[str, Any] = msgspec.field(default_factory=dict)
    """What verify and undo need and only acting told (UUIDs, minors). JSON."""
    unknown: Mapping[str, Any] = msgspec.field(default_factory=dict)
    """Fields of a later release: kept, written back unchanged."""


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """Everything this node knows of one claim."""

    uid: str
    namespace: str
    name: str
    state: RecordState
    boot_id: str
    """``/proc/sys/kernel/random/boot_id`` when it was written: after a reboot nothing is served unverified."""
    effects: tuple[Mapping[str, Any], ...] = ()
    """Effects as JSON, in the order of application; the driver knows their types."""
    devices: tuple[PreparedDevice, ...] = ()
    holds: tuple[str, ...] = ()
    """Physical things this claim uses (``gpu:<uuid>``), also while only started."""
    config_key: str = ""
    """Canonical text of the effective configuration of its devices (``kubeletplugin.configkeys``): claims may share a
    device only when they want it configured alike."""
    claim: Mapping[str, Any] = msgspec.field(default_factory=dict)
    """What the claim asked for, as JSON (``kubeletplugin.claimjson``): lets a node whose API server is down prepare a
    claim it knows again after a reboot."""
    cdi: Mapping[str, Any] = msgspec.field(default_factory=dict)
    """The devices of the claim's CDI file as JSON (``cdi.spec``): lets a vanished file be made again without asking
    anybody."""
    unknown: Mapping[str, Any] = msgspec.field(default_factory=dict)
    """Fields of a later release: kept, written back unchanged."""
