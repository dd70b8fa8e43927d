"""ResourceSlices and ResourceClaims as v1 JSON, in whatever version of resource.k8s.io the cluster serves.

The first call uses v1. The served versions are read after a 404 without an object, after an outage (the API server may
have been upgraded), and every RECHECK_S while an older version is in use.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

from nvdra_core.errors import ApiError
from nvdra_core.kube.client import ANY_STATE, DEFAULT_WRITE
from nvdra_core.kube.errors import TransportError
from nvdra_core.kube.reflector import WatchStream
from nvdra_core.kube.resources import (
    CLAIMS,
    EVERYTHING,
    RESOURCE_GROUP,
    SLICES,
    JsonObject,
    ObjectList,
    Preconditions,
    Selector,
    WriteOptions,
)
from nvdra_core.runtime.clock import Deadline
from nvdra_node.kube import resourceapi
from nvdra_node.kube.client import Client
from nvdra_node.kube.listwatch import ClientListWatch

RECHECK_S = 1800.0

T = TypeVar("T")


class DraApi:
    """See the module. Safe for several threads."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self._lock = threading.Lock()
        # Every supported cluster serves v1 by default: the first call needs no discovery.
        self._version = "v1"
        self._outages = client.transport.pool.outages
        self._recheck_at_s = float("inf")
        """When to ask again for a newer version."""

    def version(self, deadline: Deadline | None = None) -> str:
        """The version in use, e.g. ``v1``; reads the served versions if it is unknown."""
        if not self._is_known():
            with self._discovering(deadline):
                if not self._is_known():
                    self._discover(deadline)
        elif self._is_recheck_due():
            self._recheck(deadline)
        return self._version

    def _is_recheck_due(self) -> bool:
        return self.client.transport.clock.monotonic() >= self._recheck_at_s

    def _recheck(self, deadline: Deadline | None) -> None:
        """Read the served versions; a failure is ignored, as the version in use works."""
        with self._discovering(deadline):
            if not self._is_recheck_due():
                return
            self._plan_recheck()
            with contextlib.suppress(ApiError):
                self._discover(deadline)

    def _plan_recheck(self) -> None:
        self._recheck_at_s = self.client.transport.clock.monotonic() + RECHECK_S

    def _is_known(self) -> bool:
        return bool(self._version) and self._outages == self.client.transport.pool.outages

    def get_claim(
        self, namespace: str, name: str, *, deadline: Deadline | None = None
    ) -> JsonObject:
        """One claim; 404 NotFound when it does not exist."""

        def get(version: str) -> JsonObject:
            resource = CLAIMS.at(version)
            claim = self.client.get(resource, name, namespace=namespace, deadline=deadline)
            return resourceapi.claim_from(claim, version)

        return self.in_version(get, deadline)

    def list_slices(
        self, selector: Selector = EVERYTHING, *, deadline: Deadline | None = None
    ) -> ObjectList:
        """The selected slices in one consistent state."""

        def list_in(version: str) -> ObjectList:
            found = self.client.list(SLICES.at(version), selector=selector, deadline=deadline)
            items = [resourceapi.slice_from(item, version) for item in found.items]
            return ObjectList(items, found.resource_version)

        return self.in_version(list_in, deadline)

    def slice_source(self, selector: Selector = EVERYTHING) -> SliceListWatch:
        """The selected slices for a Reflector, as v1 across changes of the served version."""
        return SliceListWatch(self, selector)

    def create_slice(
        self,
        body: JsonObject,
        *,
        options: WriteOptions = DEFAULT_WRITE,
        deadline: Deadline | None = None,
    ) -> JsonObject:
        """Create a slice; the answer is what was stored, which lacks the fields of gates that are off."""

        def create(version: str) -> JsonObject:
            sent = resourceapi.slice_to(body, version)
            stored = self.client.create(
                SLICES.at(version), sent, options=options, deadline=deadline
            )
            return resourceapi.slice_from(stored, version)

        return self.in_version(create, deadline)

    def update_slice(
        self,
        body: JsonObject,
        *,
        options: WriteOptions = DEFAULT_WRITE,
        deadline: Deadline | None = None,
    ) -> JsonObject:
        """Replace a slice; 409 when it changed meanwhile. Returns what was stored."""

        def update(version: str) -> JsonObject:
            sent = resourceapi.slice_to(body, version)
            stored = self.client.update(
                SLICES.at(version), sent, options=options, deadline=deadline
            )
            return resourceapi.slice_from(stored, version)

        return self.in_version(update, deadline)

    def delete_slice(
        self,
        name: str,
        *,
        preconditions: Preconditions = ANY_STATE,
        deadline: Deadline | None = None,
    ) -> None:
        """Delete a slice; 404 when it does not exist, 409 when the preconditions do not hold."""

        def delete(version: str) -> None:
            self.client.delete(
                SLICES.at(version), name, preconditions=preconditions, deadline=deadline
            )

        self.in_version(delete, deadline)

    def apply_claim_status(
        self, body: JsonObject, *, options: WriteOptions, deadline: Deadline | None = None
    ) -> JsonObject:
        """Apply ``status.devices`` of a claim; ``body`` has metadata (name, namespace, best also uid) and status."""

        def apply(version: str) -> JsonObject:
            resource = CLAIMS.at(version).sub("status")
            sent = {**body, "apiVersion": resource.api_version, "kind": "ResourceClaim"}
            stored = self.client.apply(resource, sent, options=options, deadline=deadline)
            return resourceapi.claim_from(stored, version)

        return self.in_version(apply, deadline)

    def patch_claim_status(
        self, body: JsonObject, *, options: WriteOptions, deadline: Deadline | None = None
    ) -> JsonObject:
        """JSON merge patch of a claim's status: ``status.devices`` is replaced as a whole, so ``metadata`` should have
        the resourceVersion that it was made from (409 when there is a newer one)."""

        def patch(version: str) -> JsonObject:
            resource = CLAIMS.at(version).sub("status")
            stored = self.client.merge_patch(resource, body, options=options, deadline=deadline)
            return resourceapi.claim_from(stored, version)

        return self.in_version(patch, deadline)

    def in_version(self, call: Callable[[str], T], deadline: Deadline | None = None) -> T:
        """``call`` with the served version; again with another one if the first is not served any more."""
        version = self.version(deadline)
        try:
            return call(version)
        except ApiError as error:
            if error.status != 404 or error.api_reason == "NotFound":
                raise
            with self._discovering(deadline):
                if self._version == version:
                    self._discover(deadline)
            if self._version == version:
                raise
        return call(self._version)

    @contextmanager
    def _discovering(self, deadline: Deadline | None) -> Iterator[None]:
        """Discovery by one thread at a time; others wait within their own deadlines."""
        transport = self.client.transport
        limit = deadline or Deadline(transport.settings.request_timeout_s, transport.clock)
        if not self._lock.acquire(timeout=limit.remaining_s()):
            raise TransportError(f"the versions of {RESOURCE_GROUP} were not known in time")
        try:
            yield
        finally:
            self._lock.release()

    def _discover(self, deadline: Deadline | None) -> None:
        group = self.client.get_path(f"/apis/{RESOURCE_GROUP}", deadline=deadline)
        served = [str(entry.get("version")) for entry in group.get("versions") or []]
        self._version = resourceapi.choose(served)
        if self._version == resourceapi.VERSIONS[0]:
            self._recheck_at_s = float("inf")
        else:
            self._plan_recheck()
        # Read last: discovery itself may have had an outage before its response.
        self._outages = self.client.transport.pool.outages


class SliceListWatch:
    """A ``reflector.ListerWatcher`` of ResourceSlices as v1."""

    name = SLICES.plural

    def __init__(self, api: DraApi, selector: Selector) -> None:
        self._api = api
        self._selector = selector

    def list_page(self, parameters: Mapping[str, str]) -> JsonObject:
        """See ListerWatcher."""
        return self._api.in_version(lambda version: self._at(version).list_page(parameters))

    def watch(self, parameters: Mapping[str, str], timeout_s: float) -> WatchStream:
        """See ListerWatcher. An unserved version is a 404 of ``open``; the list after it finds the served one."""
        return self._at(self._api.version()).watch(parameters, timeout_s)

    def _at(self, version: str) -> ClientListWatch:
        return ClientListWatch(
            self._api.client,
            SLICES.at(version),
            selector=self._selector,
            convert=lambda obj: resourceapi.slice_from(obj, version),
        )
