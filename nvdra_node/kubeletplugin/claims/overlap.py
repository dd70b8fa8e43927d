"""The final check whether a claim may have its devices beside the claims that are prepared. Pure.

Called by ``transaction`` under the locks of all holds involved, with the records that have a device or a hold in
common with the plan. Two claims may use the same device when one of them has admin access only, or when both have a
share of it and the same configuration.

Devices of different names can be the same hardware, so holds count as well. ``gpu:X`` alone is the whole GPU; a claim
that has ``gpu:X/part`` too uses that part only. A whole excludes all others; a part excludes the same part and wholes.
So two MIG devices of one GPU may be prepared together, a GPU and its passthrough device may not.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from nvdra_core.errors import DeviceConflictError
from nvdra_node.checkpoint.claim import Allocation
from nvdra_node.checkpoint.model import Record
from nvdra_node.kubeletplugin.claims import config_choice
from nvdra_node.kubeletplugin.driver import Plan


def check(allocation: Allocation, plan: Plan, others: Sequence[Record]) -> None:
    """Raises DeviceConflictError naming device and holder when the plan must not be carried out.

    ``others``: records of other claims.
    """
    wanted = _uses(allocation)
    for other in others:
        held = _held(other)
        shared = 0
        for device in sorted(wanted.keys() & held.keys()):
            if not (wanted[device] and held[device]):
                raise _conflict(f"device {device}", other)
            if not _is_alike(device, plan.config_key, other.config_key):
                raise _conflict(f"device {device}, with another configuration,", other)
            shared += 1
        # Each device that both may share accounts for exactly one hold in common.
        clashes = clashing(plan.holds, other.holds)
        if len(clashes) > shared:
            raise _conflict(f"hardware {clashes[0]}", other)


def clashing(holds: Collection[str], others: Collection[str]) -> list[str]:
    """The holds that two claims cannot both have, sorted."""
    common = sorted(set(holds) & set(others))
    return [hold for hold in common if not (_has_part(hold, holds) and _has_part(hold, others))]


def _has_part(hold: str, holds: Collection[str]) -> bool:
    return any(other.startswith(f"{hold}/") for other in holds)


def _is_alike(device: str, one: str, other: str) -> bool:
    """Whether two claims configure this device alike, whatever they configure their other devices to."""
    return one == other or (
        config_choice.device_key(one, device) == config_choice.device_key(other, device)
    )


def _uses(allocation: Allocation) -> dict[str, bool]:
    """Devices used, less those with admin access; True: as a share."""
    return {r.device: r.share_id is not None for r in allocation.results if not r.admin_access}


def _held(record: Record) -> dict[str, bool]:
    if record.devices:
        return {d.device: d.share_id is not None for d in record.devices if not d.admin_access}
    # Only started: no device was given yet, but effects may have been applied.
    return _uses(record.claim) if record.claim is not None else {}


def _conflict(what: str, holder: Record) -> DeviceConflictError:
    return DeviceConflictError(
        f"{what} is still prepared for claim {holder.ref}; it is free when the pod of that claim has left this node"
    )
