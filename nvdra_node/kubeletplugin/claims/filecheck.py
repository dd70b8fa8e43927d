"""Restores deleted CDI files of prepared claims. Called by ``app`` every few seconds.

A container of a running pod may restart at any time, without a prepare. One check costs one listing of the directory;
the contents of files are compared at the next prepare and after a change of the NVIDIA driver only.
"""

from __future__ import annotations

from nvdra_core.errors import NvdraError
from nvdra_core.runtime import log
from nvdra_core.runtime.clock import Deadline
from nvdra_node.checkpoint.model import Record, RecordState
from nvdra_node.kubeletplugin.claims.dependencies import Dependencies
from nvdra_node.kubeletplugin.claims.transaction import Transaction

LIMIT_S = 5.0
"""For all files of one check; the rest is left to the next."""

_LOG = log.get(__name__)


def write_missing(transaction: Transaction, deps: Dependencies) -> int:
    """Write what is missing; how many. Never raises NvdraError."""
    prepared = {
        record.uid: record
        for record in deps.records.all()
        if record.state is RecordState.COMPLETED and record.boot_id == deps.boot_id
    }
    if not prepared:
        return 0
    try:
        missing = deps.specs.missing({uid: record.cdi for uid, record in prepared.items()})
    except NvdraError as error:
        _LOG.warning("cannot list CDI files", error)
        return 0
    deadline = Deadline(LIMIT_S, deps.clock)
    return sum(_write(prepared[uid], transaction, deps, deadline) for uid in missing)


def _write(
    record: Record, transaction: Transaction, deps: Dependencies, deadline: Deadline
) -> bool:
    try:
        # Checks again, under the claim's lock: an unprepare may be under way.
        is_written = transaction.renew_file(record, deadline)
    except NvdraError as error:
        _LOG.info("missing CDI file not written", v=2, uid=record.uid, error=str(error))
        return False
    if is_written:
        path = deps.specs.path(record.uid)
        _LOG.warning("deleted CDI file written again", uid=record.uid, path=path)
    return is_written
