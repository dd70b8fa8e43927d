"""After a downgrade: what this release does for claims that a newer release prepared. Used by ``transaction``.

Their records are in quarantine (``checkpoint.store``) and still protect their devices. A repeated prepare gets the
newer release's reply if that is readable and the CDI file exists. An unprepare undoes a record that this release
understands completely, and is refused otherwise: the pod must not end while its GPU stays configured. After a reboot
only effects that persist remain of them.
"""

from __future__ import annotations

from nvdra_core.errors import RecordError
from nvdra_node.checkpoint.claim import Claim
from nvdra_node.checkpoint.codec import NewerRecord
from nvdra_node.checkpoint.model import SCHEMA_VERSION, PreparedDevice, Record, RecordState
from nvdra_node.kubeletplugin.claims.dependencies import Dependencies

_REMEDY = "install that release again"


def is_of_boot(record: Record, boot_id: str) -> bool:
    """Whether a record was written in this boot; one whose boot is unknown counts."""
    return record.boot_id in (boot_id, "")


def repeated_reply(claim: Claim, deps: Dependencies) -> tuple[PreparedDevice, ...]:
    """The reply to a repeated prepare; empty: prepare the claim as usual. Raises RecordError."""
    newer = deps.records.newer(claim.ref.uid)
    if newer is None or deps.records.get(claim.ref.uid) is not None:
        return ()
    record = newer.record
    if not is_of_boot(record, deps.boot_id):
        _check_nothing_persists(newer)
        return ()
    allocated = {(result.pool, result.device) for result in claim.results}
    known = [device for device in record.devices if device.request and device.cdi_ids]
    is_repeatable = (
        record.state is RecordState.COMPLETED
        and allocated == {(device.pool, device.device) for device in known}
        and len(known) == len(record.devices)
    )
    if not is_repeatable or deps.specs.missing({record.uid: record.cdi}):
        raise RecordError(f"{_describe(newer)} cannot be prepared again; {_REMEDY}")
    return record.devices


def record_to_undo(uid: str, deps: Dependencies) -> Record | None:
    """The record by which a claim is unprepared; None: there is none. Raises RecordError when it cannot be undone."""
    record, newer = deps.records.get(uid), deps.records.newer(uid)
    if record is not None or newer is None:
        return record
    if newer.is_whole:
        return newer.record
    if is_of_boot(newer.record, deps.boot_id):
        raise RecordError(f"{_describe(newer)} cannot be unprepared; {_REMEDY}")
    _check_nothing_persists(newer)
    return newer.record


def _check_nothing_persists(newer: NewerRecord) -> None:
    """After a reboot: raises RecordError when an effect outlives it."""
    if any(effect.get("persistent") for effect in newer.record.effects):
        raise RecordError(f"{_describe(newer)} has effects that outlive a reboot; {_REMEDY}")


def _describe(newer: NewerRecord) -> str:
    return (
        f"claim {newer.record.ref}: it was prepared by a newer release of nvdra"
        f" (schema {newer.schema}, this release reads up to {SCHEMA_VERSION}) and"
    )
