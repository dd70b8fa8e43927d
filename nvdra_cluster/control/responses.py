"""Applies the API's responses to our writes to the cache, so that the next decision starts from them.

Called by ``controller`` in its thread. Failed creations are explained by reading the object that is in the way.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from nvdra_cluster.control.dropped_fields import DroppedFieldDetector
from nvdra_cluster.control.released_numbers import ReleasedNumbers
from nvdra_cluster.control.state import decode
from nvdra_cluster.control.state.cache import Cache, Key
from nvdra_cluster.control.state.fabric_handler import FabricNodeHandler
from nvdra_cluster.control.writer import Outcome
from nvdra_cluster.decide.model import DOMAIN_LABEL, Problem
from nvdra_cluster.decide.writes import TEMPLATES, Create, Delete, Merge, Write
from nvdra_core.errors import ApiError
from nvdra_core.kube.client import ResourceClient
from nvdra_core.kube.resources import JsonObject
from nvdra_core.runtime import log

_LOG = log.get(__name__)


@dataclass(slots=True, kw_only=True)
class ResponseHandler:
    """See the module."""

    cache: Cache
    client: ResourceClient
    fabric_handler: FabricNodeHandler
    released: ReleasedNumbers
    dropped_fields: DroppedFieldDetector = field(default_factory=DroppedFieldDetector)

    def apply(self, outcome: Outcome) -> None:
        """Take over the objects that were stored, and explain the write that failed."""
        for write, stored in outcome.stored:
            if stored is not None:
                self.dropped_fields.check(write, stored)
            self._store(write, stored)
        failed, error = outcome.failed, outcome.error
        if error is None or not isinstance(failed, Create):
            return
        if failed.resource == TEMPLATES:
            self._explain_template(outcome.plan.key, failed, error)
        elif error.status == 409:
            self._read_existing(failed)

    def _store(self, write: Write, stored: JsonObject | None) -> None:
        plural = write.key[0]
        if stored is None or decode.is_deleted(stored):
            self._remove(write)
        elif plural == "fabricnodes":
            self.fabric_handler.on_response(stored)
        elif plural == "computedomains":
            self.cache.put_domain(decode.domain(stored))
        elif plural == "resourceclaimtemplates":
            self.cache.put_template(decode.template(stored))
        elif plural == "computedomaincliques":
            self.cache.put_clique(decode.clique(stored))
        elif plural == "configmaps":
            self.released.note(stored)

    def _remove(self, write: Write) -> None:
        """The object does not exist any more, or is being deleted without finalizers."""
        plural, namespace, name = write.key
        uid = write.uid if isinstance(write, Delete) else _uid_of(write)
        if isinstance(write, Delete) and plural == TEMPLATES.plural:
            template = self.cache.templates.get(f"{namespace}/{name}")
            if template is not None and template.finalizers:
                return  # kept by another finalizer until the watch reports its end
        if uid:
            self.cache.tombstone(uid)
        if plural == "fabricnodes":
            self.fabric_handler.on_delete(name, uid)
        elif plural == "computedomains":
            self.cache.drop_domain(f"{namespace}/{name}", uid)
        elif plural == "resourceclaimtemplates":
            self.cache.drop_template(f"{namespace}/{name}", uid)
        elif plural == "computedomaincliques":
            self.cache.drop_clique(name, uid)
        elif plural == "configmaps":
            self.released.note(None)

    def _read_existing(self, write: Create) -> None:
        """The object exists already, and the watch has not reported it yet."""
        try:
            found = self.client.get(write.resource, write.key[2], namespace=write.key[1])
        except ApiError as error:
            _LOG.info("cannot read existing object", v=2, error=error)
            return
        self._store(write, found)

    def _explain_template(self, key: Key, write: Create, error: ApiError) -> None:
        """Put the reason into the domain's conditions: with upstream, users saw only a pod that never started."""
        problem = Problem("CreateFailed", f"the API server refused the template: {error}")
        if error.status == 409:
            _, namespace, name = write.key
            found = self._read_template(namespace, name)
            if found is not None and decode.template(found).domain_uid == key.name:
                self.cache.put_template(decode.template(found))
                return
            problem = Problem(
                "NameTaken",
                f"ResourceClaimTemplate {name} exists and belongs to no ComputeDomain or another one "
                f"(label {DOMAIN_LABEL}); delete it, or use another name",
            )
        with self.cache.lock:
            self.cache.template_problems[key.name] = problem

    def _read_template(self, namespace: str, name: str) -> JsonObject | None:
        try:
            return self.client.get(TEMPLATES, name, namespace=namespace)
        except ApiError as error:
            _LOG.info("cannot read conflicting template", v=2, error=error)
            return None


def _uid_of(write: Write) -> str:
    """UID of the object that a patch is for."""
    return str(write.patch["metadata"].get("uid") or "") if isinstance(write, Merge) else ""
