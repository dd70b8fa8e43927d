"""Allocated ResourceClaims as the scheduler leaves them, one GPU each. Pure.

More claims than GPUs are held with admin access, the one way in which several claims may hold one whole GPU; the GPU
that latencies are measured on is held by no other claim.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tests.bench.plugin.contender import DRIVER, NODE
from tests.bench.plugin.loadclient import Claim
from tests.lib import objects
from tests.lib.objects import Object

NAMESPACE = "bench"
GPUS = 8


class ClaimMaker:
    """Makes claims and remembers them; `store` puts all into the API before the first is used."""

    def __init__(self) -> None:
        self.objects: list[Object] = []
        self._claims: list[Claim] = []

    def make(self, gpu: int, *, admin: bool = False) -> Claim:
        """Return a new claim to one GPU, as the kubelet names it in a call; without a UID until it is stored."""
        claim = {"namespace": NAMESPACE, "name": f"claim-{len(self._claims)}"}
        self._claims.append(claim)
        self.objects.append(_object(claim, f"gpu-{gpu}", admin=admin))
        return claim

    def store(self, add: Callable[[Sequence[Object]], Sequence[str]]) -> None:
        """Create all claims with `add`, which returns the UIDs that the API gave them."""
        for claim, uid in zip(self._claims, add(self.objects), strict=True):
            claim["uid"] = uid

    def spread(self, number: int, gpus: Sequence[int]) -> list[Claim]:
        """Return claims that take the given GPUs in turn."""
        return [self.make(gpus[index % len(gpus)]) for index in range(number)]

    def held(self, number: int) -> list[Claim]:
        """Return claims to hold at the same time that leave GPU 0 alone: one a GPU, then more with admin access."""
        others = range(1, GPUS)
        return [
            self.make(others[index % len(others)], admin=index >= len(others))
            for index in range(number)
        ]


def _object(claim: Claim, device: str, *, admin: bool) -> Object:
    access: dict[str, Any] = {"adminAccess": True} if admin else {}
    result = objects.result(device, NODE, driver=DRIVER, **access)
    return objects.claim(
        claim["name"],
        claim["namespace"],
        objects.request("gpu", DRIVER, allocationMode="ExactCount", count=1, **access),
        meta={"finalizers": ["resource.kubernetes.io/delete-protection"]},
        status={
            "allocation": objects.allocation(result, node=NODE),
            "reservedFor": objects.reserved_for(f"pod-{claim['name']}"),
        },
    )
