"""Claims that a newer release prepared, after a downgrade: what this release does for them. Used by ``transaction``.

Their records are in quarantine (``checkpoint.store``) and protect their devices. A repeated prepare is answered what
the newer release answered, if that is readable and the CDI file is there. An unprepare undoes what this release
understands whole; else it is refused, for the pod must not end and leave the GPU as it was configured. After a reboot
nothing is left of them but effects that outlive one.
"""

from __future__ import annotations

from nvdra_core.errors import RecordError
from nvdra_node.checkpoint.claim import Claim
from nvdra_node.checkpoint.codec import Newer
from nvdra_node.checkpoint.model import SCHEMA_VERSION, PreparedDevice, Record, RecordState
from nvdra_node.kubeletplugin.claims.dependencies import Dependencies

_REMEDY = "install that release again"


def is_of_boot(record: Record, boot_id: str) -> bool:
    """Whether what a record says was done in this boot; one of an unknown boot counts."""
    return record.boot_id in (boot_id, "")


def answer(claim: Claim, deps: Dependencies) -> tuple[PreparedDevice, ...]:
    """What a prepare of the claim is answered; empty: there is nothing, prepare it. Raises RecordError."""
    newer = deps.records.newer(claim.ref.uid)
    if newer is None or deps.records.get(claim.ref.uid) is not None:
        return ()
    record = newer.record
    if not is_of_boot(record, deps.boot_id):
        _check_gone(newer)
        return ()
    wanted = {(result.pool, result.device) for result in claim.results}
    known = [device for device in record.devices if device.request and device.cdi_ids]
    given = {(device.pool, device.device) for device in known}
    is_given = (
        record.state is RecordState.COMPLETED
        and wanted == given
        and len(known) == len(record.devices)
    )
    if not is_given or deps.specs.missing([record.uid]):
        raise RecordError(f"{_what(newer)} cannot be prepared again; {_REMEDY}")
    return record.devices


def to_undo(uid: str, deps: Dependencies) -> Record | None:
    """The record by which a claim is unprepared; None: there is none. Raises RecordError when this release cannot."""
    record, newer = deps.records.get(uid), deps.records.newer(uid)
    if record is not None or newer is None:
        return record
    if newer.is_whole:
        return newer.record
    if is_of_boot(newer.record, deps.boot_id):
        raise RecordError(f"{_what(newer)} cannot be unprepared; {_REMEDY}")
    _check_gone(newer)
    return newer.record


def _check_gone(newer: Newer) -> None:
    """After a reboot: raises RecordError when an effect outlives it."""
    if any(effect.get("persistent") for effect in newer.record.effects):
        raise RecordError(f"{_what(newer)} has effects that outlive a reboot; {_REMEDY}")


def _what(newer: Newer) -> str:
    record = newer.record
    return (
        f"claim {record.namespace}/{record.name} (uid {record.uid}): it was prepared by a newer release of nvdra"
        f" (schema {newer.schema}, this release reads up to {SCHEMA_VERSION}) and"
    )
