"""Writes CDI files of prepared claims again that somebody deleted. Called by ``app`` every few seconds.

A container of a running pod may start again at any time, and nobody prepares its claim then. A look costs one listing
of the directory. A file that is there is believed; the next prepare, or another driver, compares what is in it.
"""

from __future__ import annotations

from nvdra_core.errors import NvdraError
from nvdra_core.runtime import log
from nvdra_core.runtime.clock import Deadline
from nvdra_node.checkpoint.model import Record, RecordState
from nvdra_node.kubeletplugin.claims.dependencies import Dependencies
from nvdra_node.kubeletplugin.claims.transaction import Transaction

LIMIT_S = 5.0
"""For all files of one look; the rest is left to the next."""

_log = log.get(__name__)


def write_missing(transaction: Transaction, deps: Dependencies) -> int:
    """Write what is missing, and warn of each; how many. Never raises NvdraError."""
    prepared = {
        record.uid: record
        for record in deps.records.all()
        if record.state is RecordState.COMPLETED and record.boot_id == deps.boot_id
    }
    if not prepared:
        return 0
    try:
        missing = deps.specs.missing(prepared)
    except NvdraError as error:
        _log.warning("cannot look for CDI files", error)
        return 0
    deadline = Deadline(LIMIT_S, deps.clock)
    return sum(_write(prepared[uid], transaction, deps, deadline) for uid in missing)


def _write(
    record: Record, transaction: Transaction, deps: Dependencies, deadline: Deadline
) -> bool:
    try:
        # It looks once more, under the claim's lock: an unprepare may be under way.
        is_written = transaction.renew_file(record, deadline)
    except NvdraError as error:
        _log.info("missing CDI file not written", v=2, uid=record.uid, error=str(error))
        return False
    if is_written:
        path = deps.specs.path(record.uid)
        _log.warning("a CDI file was deleted: written again", uid=record.uid, path=path)
    return is_written
