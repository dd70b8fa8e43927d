"""Who may use a device beside a claim that is prepared."""

from __future__ import annotations

from typing import Any

import pytest

from nvdra_core.errors import DeviceConflictError
from nvdra_node.checkpoint.claim import AllocationResult, Claim, ClaimRef, ClaimUID
from nvdra_node.checkpoint.model import PreparedDevice, Record, RecordState
from nvdra_node.kubeletplugin.claims import config_choice, overlap
from nvdra_node.kubeletplugin.driver import Plan


def use(device: str, *, share: str | None = None, admin: bool = False) -> AllocationResult:
    return AllocationResult(
        request="r", pool="n", device=device, share_id=share, admin_access=admin
    )


def a_claim(*results: AllocationResult, uid: str = "new") -> Claim:
    return Claim(ref=ClaimRef("ns", f"claim-{uid}", ClaimUID(uid)), results=results)


def held(
    *results: AllocationResult,
    holds: tuple[str, ...] = (),
    key: str = "",
    uid: str = "old",
    started: bool = False,
) -> Record:
    claim = a_claim(*results, uid=uid)
    devices = tuple(
        PreparedDevice(
            request="r", pool="n", device=r.device, cdi_ids=(), share_id=r.share_id,
            admin_access=r.admin_access,
        )
        for r in results
    )  # fmt: skip
    return Record(
        uid=uid, namespace="ns", name=f"claim-{uid}", boot_id="b", holds=holds, config_key=key,
        state=RecordState.STARTED if started else RecordState.COMPLETED,
        devices=() if started else devices, claim=claim.allocation,
    )  # fmt: skip


def check(claim: Claim, *others: Record, holds: tuple[str, ...] = (), key: str = "") -> None:
    overlap.check(claim, Plan(holds=holds, config_key=key), others)


WHOLE = ("gpu:X",)


@pytest.mark.parametrize("started", [False, True])
def test_second_claim_on_a_device_is_refused_naming_the_holder(started: bool) -> None:
    with pytest.raises(
        DeviceConflictError, match=r"device gpu-0 .*ns/claim-old \(uid old\).*free when"
    ):
        check(a_claim(use("gpu-0")), held(use("gpu-0"), started=started))


def test_claims_on_other_devices_are_allowed() -> None:
    check(a_claim(use("gpu-0")), held(use("gpu-1"), holds=("gpu:Y",)), holds=WHOLE)


@pytest.mark.parametrize("started", [False, True])
def test_admin_access_is_allowed_beside_any_claim(started: bool) -> None:
    check(a_claim(use("gpu-0", admin=True)), held(use("gpu-0"), holds=WHOLE, started=started))
    check(a_claim(use("gpu-0")), held(use("gpu-0", admin=True), started=started), holds=WHOLE)


def test_shares_with_the_same_config_are_allowed() -> None:
    old = held(use("gpu-0", share="s1"), holds=WHOLE, key="mps")
    check(a_claim(use("gpu-0", share="s2")), old, holds=WHOLE, key="mps")


def test_shares_with_different_configs_are_refused() -> None:
    old = held(use("gpu-0", share="s1"), holds=WHOLE, key="mps")
    with pytest.raises(DeviceConflictError, match="with another configuration"):
        check(a_claim(use("gpu-0", share="s2")), old, holds=WHOLE, key="timeslice")


def shared_and(device: str, uid: str, key: str, other: str) -> tuple[Claim, str]:
    """A claim with a share of gpu-0 configured as ``key``, and another device configured otherwise."""
    claim = a_claim(use("gpu-0", share=uid), use(device), uid=uid)
    return claim, config_choice.join_keys({"gpu-0": key, device: other})


@pytest.mark.parametrize(("key", "is_refused"), [("{}", False), ("mps", True)])
def test_configs_are_compared_for_the_shared_device_only(key: str, is_refused: bool) -> None:
    old_key = config_choice.join_keys({"gpu-0": "{}", "gpu-1": ""})
    old = held(use("gpu-0", share="s1"), use("gpu-1"), holds=("gpu:X", "gpu:Y"), key=old_key)
    claim, new_key = shared_and("gpu-2", "new", key, "other")
    if is_refused:
        with pytest.raises(DeviceConflictError, match="gpu-0, with another configuration"):
            check(claim, old, holds=("gpu:X", "gpu:Z"), key=new_key)
    else:
        check(claim, old, holds=("gpu:X", "gpu:Z"), key=new_key)


def test_single_config_key_is_compared_with_keys_by_device() -> None:
    single = '{"apiVersion":"resource.nvidia.com/v1beta1","kind":"GpuConfig"}'
    old = held(use("gpu-0", share="s1"), holds=WHOLE, key=single)
    claim, key = shared_and("gpu-2", "new", single, "")
    check(claim, old, holds=("gpu:X", "gpu:Z"), key=key)
    claim, key = shared_and("gpu-2", "new", "", single)
    with pytest.raises(DeviceConflictError, match="another configuration"):
        check(claim, old, holds=("gpu:X", "gpu:Z"), key=key)


def test_share_beside_a_whole_device_is_refused() -> None:
    with pytest.raises(DeviceConflictError):
        check(a_claim(use("gpu-0", share="s2")), held(use("gpu-0"), holds=WHOLE), holds=WHOLE)


def test_gpu_and_its_passthrough_device_exclude_each_other() -> None:
    with pytest.raises(DeviceConflictError, match="hardware gpu:X"):
        check(a_claim(use("gpu-vfio-0")), held(use("gpu-0"), holds=WHOLE), holds=WHOLE)


def parted(placement: str) -> tuple[str, ...]:
    return ("gpu:X", f"gpu:X/{placement}")


@pytest.mark.parametrize(
    ("mine", "theirs", "refused"),
    [
        (parted("0-2"), parted("2-2"), False),
        (parted("0-2"), parted("0-2"), True),
        (WHOLE, parted("0-2"), True),
        (parted("0-2"), WHOLE, True),
        (("gpu:X", "gpu:XY/0-2"), WHOLE, True),
    ],
)
def test_parts_are_allowed_together_but_not_with_the_whole(
    mine: tuple[str, ...], theirs: tuple[str, ...], refused: bool
) -> None:
    claim, old = a_claim(use("mig-a")), held(use("mig-b"), holds=theirs)
    if not refused:
        check(claim, old, holds=mine)
        return
    with pytest.raises(DeviceConflictError):
        check(claim, old, holds=mine)


def test_shared_device_does_not_allow_other_common_holds() -> None:
    holds = ("gpu:X", "gpu:Y")
    old = held(use("gpu-0", share="s1"), use("gpu-vfio-1"), holds=holds)
    mine: Any = a_claim(use("gpu-0", share="s2"), use("gpu-1"))
    with pytest.raises(DeviceConflictError, match="hardware"):
        check(mine, old, holds=holds)
