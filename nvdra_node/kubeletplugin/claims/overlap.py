"""The last line of defence: may this claim have its devices beside the claims that are prepared? Pure.

Called by ``transaction`` under the locks of all holds involved, with the records that have a device or a hold in
common with the plan. Two claims may use the same device when one of them has admin access only, or when both have a
share of it and want it configured alike.

Devices of different names can be the same hardware, so holds count as well. ``gpu:X`` alone is the whole GPU; with
``gpu:X/part`` beside it, a claim holds that part and only takes care of the rest. A whole excludes all others; a part
excludes the same part and wholes. So two MIG devices of one GPU go together, and a GPU and its passthrough twin do not.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from nvdra_core.errors import DeviceConflictError
from nvdra_node.checkpoint.claim import Claim
from nvdra_node.checkpoint.model import Record
from nvdra_node.kubeletplugin.claims import configkeys
from nvdra_node.kubeletplugin.driver import Plan

Uses = Mapping[str, bool]
"""Devices used, less those with admin access; True: as a share."""


def check(claim: Claim, plan: Plan, others: Sequence[Record]) -> None:
    """Raises DeviceConflictError naming device and holder when the plan must not be carried out."""
    wanted = {r.device: r.share_id is not None for r in claim.results if not r.admin_access}
    for other in others:
        if other.uid == claim.ref.uid:
            continue
        held = _uses(other)
        shared = 0
        for device in sorted(wanted.keys() & held.keys()):
            if not (wanted[device] and held[device]):
                raise _conflict(f"device {device}", other)
            if not _is_alike(device, plan.config_key, other.config_key):
                raise _conflict(f"device {device}, with another configuration,", other)
            shared += 1
        # Each device that both may share accounts for one hold in common, and no more than that.
        clashes = clashing(plan.holds, other.holds)
        if len(clashes) > shared:
            raise _conflict(f"hardware {clashes[0]}", other)


def clashing(holds: Collection[str], others: Collection[str]) -> list[str]:
    """The holds that two claims cannot both have, sorted."""
    common = sorted(set(holds) & set(others))
    return [hold for hold in common if not (_is_parted(hold, holds) and _is_parted(hold, others))]


def _is_parted(hold: str, holds: Collection[str]) -> bool:
    """Whether only a part of the thing is held."""
    return any(other.startswith(f"{hold}/") for other in holds)


def _is_alike(device: str, one: str, other: str) -> bool:
    """Whether two claims want this device configured alike, whatever they want of their other devices."""
    return one == other or configkeys.key_of(one, device) == configkeys.key_of(other, device)


def _uses(record: Record) -> dict[str, bool]:
    if record.devices:
        return {d.device: d.share_id is not None for d in record.devices if not d.admin_access}
    # Only started: nothing was promised yet, but the effects may be there.
    return {
        result["device"]: result.get("shareID") is not None
        for result in record.claim.get("results", ())
        if not result.get("adminAccess")
    }


def _conflict(what: str, holder: Record) -> DeviceConflictError:
    return DeviceConflictError(
        f"{what} is still prepared for claim {holder.namespace}/{holder.name} (uid {holder.uid});"
        " it is free when the pod of that claim is gone from this node"
    )
