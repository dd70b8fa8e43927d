"""Whether a record that is whole also means something. Pure. Asked by the record store for each record that it reads.

A checksum says that a record is as it was written, not that whoever wrote it (another release, a person) knew what
this release relies on. What passes here can be prepared from, rendered and undone without further doubts; what does
not is put aside like a damaged record, and its claim is read from the API again. What a driver keeps in ``details``
and ``effects`` is the driver's to check.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from nvdra_core.errors import RecordError
from nvdra_node.cdi import spec
from nvdra_node.checkpoint.claim import Claim
from nvdra_node.checkpoint.model import PreparedDevice, Record, RecordState
from nvdra_node.kubeletplugin.claims import claimjson


def check(record: Record) -> None:
    """Raises RecordError saying what makes no sense."""
    try:
        _require(record.config_key, str, "configKey")
        for device in record.devices:
            _check_device(device)
        if record.claim:
            _check_claim(claimjson.decode(record))
        if record.state is RecordState.COMPLETED:
            spec.render("vendor/class", record.cdi, spec.WITHOUT_DRIVER)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise RecordError(f"its content makes no sense: {error!r}") from error


def _check_device(device: PreparedDevice) -> None:
    _require(device.kind, str, "kind")
    _require(device.admin_access, bool, "adminAccess")
    _require(device.details, Mapping, "details")
    if device.share_id is not None:
        _require(device.share_id, str, "shareId")


def _check_claim(claim: Claim) -> None:
    for result in claim.results:
        _require_all((result.request, result.pool, result.device), str, "results")
        _require(result.admin_access, bool, "adminAccess")
        _require(result.consumed_capacity, Mapping, "consumedCapacity")
        if result.share_id is not None:
            _require(result.share_id, str, "shareID")
    for config in claim.configs:
        _require_all(config.requests, str, "requests")
        _require(config.parameters, Mapping, "parameters")
        _require(config.index, int, "index")
    _require(claim.annotations, Mapping, "annotations")


def _require(value: Any, kind: type, what: str) -> None:
    if not isinstance(value, kind):
        raise TypeError(f"{what} is {value!r}")


def _require_all(values: Iterable[Any], kind: type, what: str) -> None:
    for value in values:
        _require(value, kind, what)
