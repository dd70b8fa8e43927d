"""Where claims are read: one GET, then everything checked that the rest of the code relies on.

In: what the kubelet sent. Out: a ``Claim`` with this driver's results and configs only. Called by ``transaction`` and
``sweep``. Fields that we do not know pass by; fields that we know have the right type or the error names their path.
StaleClaimError always means that nothing on this node may be prepared for that UID any more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from nvdra_core.errors import ApiError, ClaimError, NvdraError, StaleClaimError
from nvdra_core.runtime.clock import Deadline
from nvdra_node.checkpoint.claim import (
    AllocationResult,
    Claim,
    ClaimRef,
    ConfigSource,
    OpaqueConfig,
)

JsonObject = dict[str, Any]

_DEVICES = "status.allocation.devices"
_ANNOTATIONS = "resource.kubernetes.io/"
"""What claims are kept with, in records and in memory: users may write 256 KB of others."""


class ClaimApi(Protocol):
    """The part of ``nvdra_core.kube.dra.DraApi`` that is needed."""

    def get_claim(
        self, namespace: str, name: str, *, deadline: Deadline | None = None
    ) -> JsonObject:
        """A ResourceClaim as resource.k8s.io/v1, whatever the cluster serves. Raises ApiError."""


class ReadMetrics(Protocol):
    """Where reads are counted (``kubeletplugin.metrics``)."""

    def claim_read(self, outcome: str = ...) -> None:
        """One read; ``outcome`` is the error's reason when it failed."""


class ClaimReader:
    """Reads claims of one driver on one node. Thread safe."""

    def __init__(self, api: ClaimApi, driver: str, node: str, metrics: ReadMetrics) -> None:
        self._api = api
        self._driver = driver
        self._node = node
        self._metrics = metrics

    def fetch(self, ref: ClaimRef, deadline: Deadline) -> Claim:
        """The claim of exactly this UID. Raises StaleClaimError, ClaimError, ApiError."""
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


def decode(obj: JsonObject, ref: ClaimRef, *, driver: str, node: str) -> Claim:
    """A ResourceClaim (v1 JSON) as ``driver`` on ``node`` sees it. Pure. Raises StaleClaimError, ClaimError."""
    reader = _Reader(f"claim {ref.namespace}/{ref.name}")
    metadata = reader.object(obj, "metadata", "metadata")
    uid = reader.text(metadata, "uid", "metadata.uid")
    if uid != ref.uid:
        raise StaleClaimError(f"claim {ref} was replaced by one of the same name (uid {uid})")
    status = reader.object(obj, "status", "status", optional=True)
    allocation = reader.object(status, "allocation", "status.allocation", optional=True)
    if not allocation:
        raise StaleClaimError(f"claim {ref} is not allocated")
    devices = reader.object(allocation, "devices", _DEVICES)
    results = tuple(_results(reader, devices, driver))
    _check_results(ref, results, driver=driver, node=node)
    configs = sorted(
        _configs(reader, devices, driver), key=lambda c: c.source is ConfigSource.CLAIM
    )
    annotations = {
        name: str(value)
        for name, value in reader.object(
            metadata, "annotations", "metadata.annotations", optional=True
        ).items()
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


def _results(reader: _Reader, devices: JsonObject, driver: str) -> Iterator[AllocationResult]:
    for path, entry in reader.objects(devices, "results", f"{_DEVICES}.results"):
        if reader.text(entry, "driver", f"{path}.driver") != driver:
            continue
        capacity = reader.object(
            entry, "consumedCapacity", f"{path}.consumedCapacity", optional=True
        )
        yield AllocationResult(
            request=reader.text(entry, "request", f"{path}.request"),
            pool=reader.text(entry, "pool", f"{path}.pool"),
            device=reader.text(entry, "device", f"{path}.device"),
            admin_access=reader.flag(entry, "adminAccess", f"{path}.adminAccess"),
            share_id=reader.text(entry, "shareID", f"{path}.shareID", optional=True) or None,
            consumed_capacity={name: str(value) for name, value in capacity.items()},
        )


def _configs(reader: _Reader, devices: JsonObject, driver: str) -> Iterator[OpaqueConfig]:
    for index, (path, entry) in enumerate(
        reader.objects(devices, "config", f"{_DEVICES}.config", optional=True)
    ):
        opaque = reader.object(entry, "opaque", f"{path}.opaque", optional=True)
        if not opaque:
            # A kind of config that a later API version added, and that may be meant for us.
            raise reader.wrong(f"{path}.opaque", "missing; this release knows opaque configs only")
        if reader.text(opaque, "driver", f"{path}.opaque.driver") != driver:
            continue
        yield OpaqueConfig(
            source=_source(reader, entry, path),
            requests=tuple(reader.texts(entry, "requests", f"{path}.requests")),
            parameters=reader.object(opaque, "parameters", f"{path}.opaque.parameters"),
            index=index,
        )


def _source(reader: _Reader, entry: JsonObject, path: str) -> ConfigSource:
    text = reader.text(entry, "source", f"{path}.source")
    try:
        return ConfigSource(text)
    except ValueError as error:
        # Who wrote it decides what it may ask for: never guess.
        raise reader.wrong(f"{path}.source", f"{text!r} is not known") from error


class _Reader:
    """Takes values out of JSON and says what is wrong with them, by path."""

    def __init__(self, what: str) -> None:
        self._what = what

    def wrong(self, path: str, why: str) -> ClaimError:
        """The error to raise."""
        return ClaimError(f"{self._what}: {path}: {why}")

    def object(
        self, values: Mapping[str, Any], key: str, path: str, *, optional: bool = False
    ) -> JsonObject:
        value = values.get(key)
        if value is None and optional:
            return {}
        if not isinstance(value, dict):
            raise self.wrong(path, _mistyped(value, "an object"))
        return value

    def objects(
        self, values: Mapping[str, Any], key: str, path: str, *, optional: bool = False
    ) -> Iterator[tuple[str, JsonObject]]:
        """Each object of a list with its path."""
        found = values.get(key)
        if found is None and optional:
            return
        if not isinstance(found, list):
            raise self.wrong(path, _mistyped(found, "a list"))
        for index, value in enumerate(found):
            if not isinstance(value, dict):
                raise self.wrong(f"{path}[{index}]", _mistyped(value, "an object"))
            yield f"{path}[{index}]", value

    def text(
        self, values: Mapping[str, Any], key: str, path: str, *, optional: bool = False
    ) -> str:
        value = values.get(key)
        if optional and value is None:
            return ""
        if not isinstance(value, str) or not (value or optional):
            raise self.wrong(path, _mistyped(value, "a text"))
        return value

    def texts(self, values: Mapping[str, Any], key: str, path: str) -> list[str]:
        found = values.get(key)
        if found is None:
            return []
        if not isinstance(found, list) or not all(isinstance(value, str) for value in found):
            raise self.wrong(path, _mistyped(found, "a list of texts"))
        return found

    def flag(self, values: Mapping[str, Any], key: str, path: str) -> bool:
        value = values.get(key)
        if value is not None and not isinstance(value, bool):
            raise self.wrong(path, _mistyped(value, "true or false"))
        return value is True


def _mistyped(value: Any, wanted: str) -> str:
    if value is None:
        return f"missing; {wanted} is needed"
    if value == "":
        return f"empty; {wanted} is needed"
    return f"{type(value).__name__} instead of {wanted}"
