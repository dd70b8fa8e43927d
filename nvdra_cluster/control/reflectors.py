"""What the controller watches: seven kinds, each trimmed to a view and put into the cache. Called by ``app``.

Claims and templates are selected by the domain's label, slices by the driver: in a large cluster
nearly all of them are none of our business.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from nvdra_cluster.control.controller import Controller
from nvdra_cluster.control.state import decode
from nvdra_cluster.control.state.cache import Cache
from nvdra_cluster.control.watching import Interest
from nvdra_cluster.decide.model import DOMAIN_LABEL
from nvdra_cluster.decide.writes import CLIQUES, DOMAINS, FABRIC_NODES, TEMPLATES
from nvdra_cluster.settings import FabricSettings
from nvdra_core.api import COMPUTE_DOMAIN_DRIVER
from nvdra_core.kube.resources import CLAIMS, NODES, SLICES, JsonObject, Selector

LABELLED = Selector(labels=DOMAIN_LABEL)


def interests(cache: Cache, controller: Controller, settings: FabricSettings) -> list[Interest]:
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


def _nodes(cache: Cache, controller: Controller, rack_label: str) -> list[Interest]:
    def put_slice(obj: JsonObject) -> None:
        cache.put_slice(obj["metadata"]["name"], decode.slice_node(obj))

    return [
        Interest(
            resource=NODES,
            put=lambda obj: cache.put_node(decode.node(obj, rack_label)),
            drop=cache.drop_node,
            tombstone=cache.tombstone,
            known=_paths(cache, cache.nodes),
        ),
        Interest(
            resource=SLICES,
            selector=Selector(fields=f"spec.driver={COMPUTE_DOMAIN_DRIVER}"),
            put=put_slice,
            drop=cache.drop_slice,
            tombstone=cache.tombstone,
            known=_paths(cache, cache.slices),
        ),
        Interest(
            resource=FABRIC_NODES,
            put=controller.fabric_handler.on_watch,
            drop=controller.fabric_handler.on_delete,
            tombstone=cache.tombstone,
            known=_paths(cache, cache.fabrics),
        ),
    ]


def _domains(cache: Cache) -> list[Interest]:
    return [
        Interest(
            resource=DOMAINS,
            put=lambda obj: cache.put_domain(decode.domain(obj)),
            drop=cache.drop_domain,
            tombstone=cache.tombstone,
            known=cache.domain_paths,
        ),
        Interest(
            resource=TEMPLATES,
            selector=LABELLED,
            put=lambda obj: cache.put_template(decode.template(obj)),
            drop=cache.drop_template,
            tombstone=cache.tombstone,
            known=_paths(cache, cache.templates),
        ),
        Interest(
            resource=CLAIMS,
            selector=LABELLED,
            put=lambda obj: cache.put_claim(decode.claim(obj)),
            drop=cache.drop_claim,
            tombstone=cache.tombstone,
            known=_paths(cache, cache.claims),
        ),
    ]


def _cliques(cache: Cache, namespace: str) -> Interest:
    def known() -> set[str]:
        with cache.lock:
            return {f"{namespace}/{name}" for name in cache.cliques}

    return Interest(
        resource=CLIQUES,
        namespace=namespace,
        put=lambda obj: cache.put_clique(decode.clique(obj)),
        drop=lambda path, uid: cache.drop_clique(path.rpartition("/")[2], uid),
        tombstone=cache.tombstone,
        known=known,
    )
