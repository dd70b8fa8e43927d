"""Reads ResourceClaims: one GET, one typed decoding, and the checks that the rest of the code relies on.

Called by ``transaction`` and ``sweep``; thread safe. A StaleClaimError always means that nothing on this node may be
prepared for that UID any more. Unknown fields are ignored; a known field of a wrong type is a ClaimError naming it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Protocol

import msgspec

from nvdra_core.errors import ApiError, ClaimError, NvdraError, StaleClaimError
from nvdra_core.openstruct import convert
from nvdra_core.runtime.clock import Deadline
from nvdra_node.checkpoint.claim import (
    AllocationResult,
    Claim,
    ClaimRef,
    ConfigSource,
    OpaqueConfig,
)

JsonObject = dict[str, Any]
Text = Annotated[str, msgspec.Meta(min_length=1)]

_CONFIG = "status.allocation.devices.config"
_NO_POD_NAMES_IT = "no relationship found between node"
"""Text of the node authorizer (kubernetes plugin/pkg/auth/authorizer/node)."""
_ANNOTATIONS = "resource.kubernetes.io/"
"""Prefix of the annotations that are kept, in records and in memory: users may write 256 KB of others."""


class ClaimApi(Protocol):
    """The part of ``nvdra_node.kube.dra.DraApi`` that is needed."""

    def get_claim(
        self, namespace: str, name: str, *, deadline: Deadline | None = None
    ) -> JsonObject:
        """A ResourceClaim as resource.k8s.io/v1, whatever the cluster serves. Raises ApiError."""


class ClaimSource(Protocol):
    """Reads claims (``ClaimReader``)."""

    def fetch(self, ref: ClaimRef, deadline: Deadline) -> Claim:
        """The claim of exactly this UID. Raises StaleClaimError, ClaimError, ApiError, DeadlineError."""


class ReadMetrics(Protocol):
    """Where reads are counted (``kubeletplugin.metrics``)."""

    def claim_read(self, outcome: str = ...) -> None:
        """One read; ``outcome`` is the error's reason when it failed."""


class UnnamedClaimError(StaleClaimError):
    """The API server says that no pod on this node names the claim: it does so also briefly after its own start."""


class ClaimReader:
    """Reads claims of one driver on one node."""

    def __init__(self, api: ClaimApi, driver: str, node: str, metrics: ReadMetrics) -> None:
        self._api = api
        self._driver = driver
        self._node = node
        self._metrics = metrics

    def fetch(self, ref: ClaimRef, deadline: Deadline) -> Claim:
        """The claim of exactly this UID. Raises StaleClaimError, ClaimError, ApiError, DeadlineError."""
        deadline.check(f"reading claim {ref}")
        try:
            claim = self._fetch(ref, deadline)
        except NvdraError as error:
            self._metrics.claim_read(error.reason)
            raise
        self._metrics.claim_read()
        return claim

    def _fetch(self, ref: ClaimRef, deadline: Deadline) -> Claim:
        try:
            obj = self._api.get_claim(ref.namespace, ref.name, deadline=deadline)
        except ApiError as error:
            if error.status == 404 and error.api_reason == "NotFound":
                raise StaleClaimError(f"claim {ref} does not exist any more") from error
            raise
        return decode(obj, ref, driver=self._driver, node=self._node)


def why_stale(claims: ClaimSource, ref: ClaimRef, deadline: Deadline) -> StaleClaimError | None:
    """Why nothing may be prepared for a claim any more; None: it exists. Raises NvdraError when that is unknown.

    With the kubelet's credential a node may read only the claims that its pods name: reading a deleted one is
    forbidden (403) then. An UnnamedClaimError counts only after a grace time.
    """
    try:
        claims.fetch(ref, deadline)
    except StaleClaimError as error:
        return error
    except ApiError as error:
        if error.status != 403 or _NO_POD_NAMES_IT not in str(error):
            raise
        return UnnamedClaimError(f"no pod on this node names claim {ref}")
    return None


class _ApiStruct(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A part of a ResourceClaim (resource.k8s.io/v1), as far as it is read. Go writes some empty fields as null."""


class _Result(_ApiStruct, frozen=True):
    driver: Text
    request: Text
    pool: Text
    device: Text
    admin_access: bool | None = None
    share_id: str | None = msgspec.field(default=None, name="shareID")
    consumed_capacity: dict[str, str | int | float] | None = None


class _Opaque(_ApiStruct, frozen=True):
    driver: Text
    parameters: dict[str, Any]


class _Config(_ApiStruct, frozen=True):
    source: str
    requests: tuple[str, ...] | None = None
    opaque: _Opaque | None = None


class _Devices(_ApiStruct, frozen=True):
    results: tuple[_Result, ...]
    config: tuple[_Config, ...] | None = None


class _Allocation(_ApiStruct, frozen=True):
    devices: _Devices | None = None


class _Status(_ApiStruct, frozen=True):
    allocation: _Allocation | None = None


class _Metadata(_ApiStruct, frozen=True):
    uid: Text
    annotations: dict[str, str] | None = None


class _ResourceClaim(_ApiStruct, frozen=True):
    metadata: _Metadata
    status: _Status | None = None


def decode(obj: JsonObject, ref: ClaimRef, *, driver: str, node: str) -> Claim:
    """A ResourceClaim (v1 JSON) as ``driver`` on ``node`` uses it. Pure. Raises StaleClaimError, ClaimError."""
    try:
        claim = convert(obj, _ResourceClaim)
    except ValueError as error:
        raise ClaimError(f"claim {ref.namespace}/{ref.name}: {error}") from error
    if claim.metadata.uid != ref.uid:
        raise StaleClaimError(
            f"claim {ref} was replaced by one of the same name (uid {claim.metadata.uid})"
        )
    allocation = claim.status.allocation if claim.status is not None else None
    if allocation is None or allocation.devices is None:
        raise StaleClaimError(f"claim {ref} is not allocated")
    devices = allocation.devices
    results = tuple(_to_result(result) for result in devices.results if result.driver == driver)
    _check_results(ref, results, driver=driver, node=node)
    configs = sorted(_configs(ref, devices, driver), key=lambda c: c.source is ConfigSource.CLAIM)
    annotations = {
        name: value
        for name, value in (claim.metadata.annotations or {}).items()
        if name.startswith(_ANNOTATIONS)
    }
    return Claim(ref=ref, results=results, configs=tuple(configs), annotations=annotations)


def _check_results(
    ref: ClaimRef, results: tuple[AllocationResult, ...], *, driver: str, node: str
) -> None:
    if not results:
        raise StaleClaimError(f"claim {ref} is allocated no device of {driver}")
    for result in results:
        if result.pool != node:
            raise StaleClaimError(
                f"claim {ref} is allocated device {result.device} of pool {result.pool},"
                f" and this node's pool is {node}"
            )


def _to_result(result: _Result) -> AllocationResult:
    return AllocationResult(
        request=result.request,
        pool=result.pool,
        device=result.device,
        admin_access=result.admin_access is True,
        share_id=result.share_id or None,
        consumed_capacity={
            name: str(value) for name, value in (result.consumed_capacity or {}).items()
        },
    )


def _configs(ref: ClaimRef, devices: _Devices, driver: str) -> Iterator[OpaqueConfig]:
    for index, config in enumerate(devices.config or ()):
        where = f"claim {ref.namespace}/{ref.name}: {_CONFIG}[{index}]"
        if config.opaque is None:
            # A kind of config that a later API version added, and that may be meant for this driver.
            raise ClaimError(f"{where}.opaque: missing; this release knows opaque configs only")
        if config.opaque.driver != driver:
            continue
        try:
            source = ConfigSource(config.source)
        except ValueError as error:
            # Who wrote it decides what it may ask for: never guess.
            raise ClaimError(f"{where}.source: {config.source!r} is not known") from error
        yield OpaqueConfig(
            source=source,
            requests=config.requests or (),
            parameters=config.opaque.parameters,
            index=index,
        )
