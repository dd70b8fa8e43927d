"""What the controller watches: seven kinds, each trimmed to a view and put into the cache. Called by ``app``.

Claims and templates are selected by the domain's label, slices by the driver: in a large cluster
nearly all of them are none of our business.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from nvdra_cluster.control import wire
from nvdra_cluster.control.cache import Cache
from nvdra_cluster.control.loop import Loop
from nvdra_cluster.control.watching import Interest
from nvdra_cluster.decide.model import DOMAIN_LABEL
from nvdra_cluster.decide.writes import CLIQUES, DOMAINS, FABRIC_NODES, TEMPLATES
from nvdra_cluster.settings import FabricSettings
from nvdra_core.api import COMPUTE_DOMAIN_DRIVER
from nvdra_core.kube.resources import CLAIMS, NODES, SLICES, JsonObject, Selector

LABELLED = Selector(labels=DOMAIN_LABEL)


def interests(cache: Cache, loop: Loop, settings: FabricSettings) -> list[Interest]:
    """All of them."""
    return [
        *_nodes(cache, loop, settings.rack_label),
        *_domains(cache),
        _cliques(cache, settings.namespace),
    ]


def _paths(cache: Cache, of: Mapping[str, object]) -> Callable[[], set[str]]:
    def known() -> set[str]:
        with cache.lock:
            return set(of)

    return known


def _nodes(cache: Cache, loop: Loop, rack_label: str) -> list[Interest]:
    def put_slice(obj: JsonObject) -> None:
        cache.put_slice(obj["metadata"]["name"], wire.slice_node(obj))

    return [
        Interest(
            resource=NODES,
            put=lambda obj: cache.put_node(wire.node(obj, rack_label)),
            drop=cache.drop_node,
            bury=cache.bury,
            known=_paths(cache, cache.nodes),
        ),
        Interest(
            resource=SLICES,
            selector=Selector(fields=f"spec.driver={COMPUTE_DOMAIN_DRIVER}"),
            put=put_slice,
            drop=cache.drop_slice,
            bury=cache.bury,
            known=_paths(cache, cache.offers),
        ),
        Interest(
            resource=FABRIC_NODES,
            put=loop.intake.watched,
            drop=loop.intake.gone,
            bury=cache.bury,
            known=_paths(cache, cache.fabrics),
        ),
    ]


def _domains(cache: Cache) -> list[Interest]:
    return [
        Interest(
            resource=DOMAINS,
            put=lambda obj: cache.put_domain(wire.domain(obj)),
            drop=cache.drop_domain,
            bury=cache.bury,
            known=cache.domain_paths,
        ),
        Interest(
            resource=TEMPLATES,
            selector=LABELLED,
            put=lambda obj: cache.put_template(wire.template(obj)),
            drop=cache.drop_template,
            bury=cache.bury,
            known=_paths(cache, cache.templates),
        ),
        Interest(
            resource=CLAIMS,
            selector=LABELLED,
            put=lambda obj: cache.put_claim(wire.claim(obj)),
            drop=cache.drop_claim,
            bury=cache.bury,
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
        put=lambda obj: cache.put_clique(wire.clique(obj)),
        drop=lambda path, uid: cache.drop_clique(path.rpartition("/")[2], uid),
        bury=cache.bury,
        known=known,
    )
