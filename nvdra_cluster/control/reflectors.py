"""What the controller watches: seven kinds, each decoded into views of the cache. Called by ``app``.

Claims and templates are selected by the domain's label, slices by the driver: in a large cluster nearly all of them
belong to others. Objects are decoded page by page, so that 10,000 Nodes are never in memory as JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from nvdra_cluster.control.controller import Controller
from nvdra_cluster.control.state import decode
from nvdra_cluster.control.state.cache import Cache
from nvdra_cluster.decide.model import DOMAIN_LABEL
from nvdra_cluster.decide.writes import CLIQUES, DOMAINS, FABRIC_NODES, TEMPLATES
from nvdra_cluster.settings import FabricSettings
from nvdra_core.api import COMPUTE_DOMAIN_DRIVER
from nvdra_core.errors import NvdraError
from nvdra_core.kube.reflector import ListerWatcher, Reflector
from nvdra_core.kube.resources import (
    CLAIMS,
    EVERYTHING,
    NODES,
    SLICES,
    JsonObject,
    Resource,
    Selector,
)
from nvdra_core.runtime import log
from nvdra_core.runtime.clock import Clock

_LOG = log.get(__name__)
LABELLED = Selector(labels=DOMAIN_LABEL)
FAILURE_LIMIT_S = 60.0
"""After failing for so long the replica is not ready."""


class VersionRegressionError(NvdraError):
    """The cluster was restored from a backup; this process must restart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """A selection of one kind, and how the cache takes it."""

    resource: Resource
    namespace: str = ""
    selector: Selector = EVERYTHING
    put: Callable[[JsonObject], None]
    drop: Callable[[str, str], None]
    """Takes an object's path (``namespace/name``, or the name of a cluster-scoped object) and UID; without a UID it
    means any object of that path.
    """
    tombstone: Callable[[str, int], None]
    """Takes the UID and version of a deleted object: responses to older writes may arrive later."""
    known: Callable[[], set[str]]
    """Paths of all objects in the cache."""


class CacheReflector:
    """A Reflector whose store is a selection of the cache."""

    def __init__(self, selection: Selection, source: ListerWatcher, clock: Clock) -> None:
        self.name = source.name
        self._selection = selection
        self._clock = clock
        self.reflector = Reflector(source, self, clock)

    def problem(self) -> str:
        """Why the cache may be stale; empty while it is current."""
        if not self.reflector.synced.is_set():
            return f"{self.name}: not listed yet"
        failure = self.reflector.failure()
        age_s = self._clock.monotonic() - failure.since_s if failure is not None else 0.0
        if failure is None or age_s <= FAILURE_LIMIT_S:
            return ""
        return f"{self.name}: watch has failed for {age_s:.0f} s: {failure.message}"

    def replace(self, objects: Iterable[JsonObject]) -> None:
        """See reflector.Store."""
        before = self.reflector.resource_version
        stale = self._selection.known()
        for obj in objects:
            stale.discard(path_of(obj))
            self.put(obj)
        self._check_version(before)
        for path in stale:
            self._selection.drop(path, "")

    def put(self, obj: JsonObject) -> None:
        """See reflector.Store."""
        try:
            self._selection.put(obj)
        except (NvdraError, KeyError, TypeError, ValueError, AttributeError) as error:
            # One object that does not decode must not stop the others.
            _LOG.error(
                "cannot decode object; ignoring it", error, kind=self.name, path=path_of(obj)
            )

    def delete(self, obj: JsonObject) -> None:
        """See reflector.Store."""
        uid = str(obj["metadata"].get("uid"))
        self._selection.tombstone(uid, decode.version_of(obj))
        self._selection.drop(path_of(obj), uid)

    def _check_version(self, before: str) -> None:
        """Versions only grow. After a restore of etcd they do not, and the cache would ignore all changes."""
        now = self.reflector.resource_version
        if before.isdigit() and now.isdigit() and int(now) < int(before):
            raise VersionRegressionError(
                f"resourceVersion of {self.name} went back from {before} to {now}: "
                "was etcd restored? restarting"
            )


def path_of(obj: JsonObject) -> str:
    """``namespace/name``, or the name of a cluster-scoped object."""
    metadata = obj.get("metadata") or {}
    namespace, name = metadata.get("namespace") or "", str(metadata.get("name") or "")
    return f"{namespace}/{name}" if namespace else name


def selections(cache: Cache, controller: Controller, settings: FabricSettings) -> list[Selection]:
    """All of them."""
    return [
        *_nodes(cache, controller, settings.rack_label),
        *_domains(cache),
        _cliques(cache, settings.namespace),
    ]


def _paths(cache: Cache, of: Mapping[str, object]) -> Callable[[], set[str]]:
    def known() -> set[str]:
        with cache.lock:
            return set(of)

    return known


def _nodes(cache: Cache, controller: Controller, rack_label: str) -> list[Selection]:
    def put_slice(obj: JsonObject) -> None:
        cache.put_slice(obj["metadata"]["name"], decode.slice_node(obj))

    return [
        Selection(
            resource=NODES,
            put=lambda obj: cache.put_node(decode.node(obj, rack_label)),
            drop=cache.drop_node,
            tombstone=cache.tombstone,
            known=_paths(cache, cache.nodes),
        ),
        Selection(
            resource=SLICES,
            selector=Selector(fields=f"spec.driver={COMPUTE_DOMAIN_DRIVER}"),
            put=put_slice,
            drop=cache.drop_slice,
            tombstone=cache.tombstone,
            known=_paths(cache, cache.slices),
        ),
        Selection(
            resource=FABRIC_NODES,
            put=controller.fabric_handler.on_watch,
            drop=controller.fabric_handler.on_delete,
            tombstone=cache.tombstone,
            known=_paths(cache, cache.fabrics),
        ),
    ]


def _domains(cache: Cache) -> list[Selection]:
    return [
        Selection(
            resource=DOMAINS,
            put=lambda obj: cache.put_domain(decode.domain(obj)),
            drop=cache.drop_domain,
            tombstone=cache.tombstone,
            known=cache.domain_paths,
        ),
        Selection(
            resource=TEMPLATES,
            selector=LABELLED,
            put=lambda obj: cache.put_template(decode.template(obj)),
            drop=cache.drop_template,
            tombstone=cache.tombstone,
            known=_paths(cache, cache.templates),
        ),
        Selection(
            resource=CLAIMS,
            selector=LABELLED,
            put=lambda obj: cache.put_claim(decode.claim(obj)),
            drop=cache.drop_claim,
            tombstone=cache.tombstone,
            known=_paths(cache, cache.claims),
        ),
    ]


def _cliques(cache: Cache, namespace: str) -> Selection:
    def known() -> set[str]:
        with cache.lock:
            return {f"{namespace}/{name}" for name in cache.cliques}

    return Selection(
        resource=CLIQUES,
        namespace=namespace,
        put=lambda obj: cache.put_clique(decode.clique(obj)),
        drop=lambda path, uid: cache.drop_clique(path.rpartition("/")[2], uid),
        tombstone=cache.tombstone,
        known=known,
    )
