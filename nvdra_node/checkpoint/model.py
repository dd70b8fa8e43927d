"""The record of one claim: what was started, what was promised. Stored by ``store``, written by the transaction.

States: *started* (effects may have been applied, in whole or in part) and *completed* (the reply was, or could have
been, sent). No record: nothing was done.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any

from nvdra_core.openstruct import OpenStruct
from nvdra_node.cdi.edits import ClaimSpec
from nvdra_node.checkpoint.claim import Allocation, Claim, ClaimRef, ClaimUID

SCHEMA_VERSION = 1


class RecordState(str, Enum):
    """How far the preparation of a claim got."""

    STARTED = "started"
    COMPLETED = "completed"


class PreparedDevice(OpenStruct, frozen=True, kw_only=True):
    """One prepared device of a claim: the kubelet gets the same reply to every repeated call."""

    request: str
    """Main request name (no sub-request)."""
    pool: str
    device: str
    cdi_ids: tuple[str, ...]
    share_id: str | None = None
    admin_access: bool = False
    kind: str = "unknown"
    """Metric label ``device_type``: gpu, mig, vfio, channel, daemon."""
    details: Mapping[str, Any] = {}
    """JSON that verify and undo need and that is known only once effects were applied (UUIDs, minors)."""


class Record(OpenStruct, frozen=True, kw_only=True):
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
    """Canonical text of the effective configuration of its devices (see ``claims.config_choice``)."""
    claim: Allocation | None = None
    """What was allocated: a node whose API server is down prepares a known claim again after a reboot."""
    cdi: ClaimSpec | None = None
    """The devices of the claim's CDI file. Set in every completed record."""

    @property
    def ref(self) -> ClaimRef:
        """The claim's identity."""
        return ClaimRef(self.namespace, self.name, ClaimUID(self.uid))

    @property
    def device_names(self) -> tuple[str, ...]:
        """Devices that the claim was given and, while it is only started, what it was allocated."""
        allocated = self.claim.device_names if self.claim is not None else ()
        return (*(device.device for device in self.devices), *allocated)

    def to_claim(self) -> Claim:
        """The claim as it was when the record was written."""
        kept = self.claim or Allocation(results=())
        return Claim(
            ref=self.ref, results=kept.results, configs=kept.configs, annotations=kept.annotations
        )
