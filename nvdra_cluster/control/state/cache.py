"""Cache of all watched objects, with indexes; each change queues the keys whose decisions depend on it.

Reflectors and responses to our own writes call ``put_*`` and ``drop_*``; an older version of an object never replaces
a newer one. One lock guards everything; no method blocks on anything else.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum

from nvdra_cluster.control.state import index
from nvdra_cluster.control.state.index import Multimap, SharedLists, Versioned, is_another
from nvdra_cluster.control.state.report_state import ReportStates
from nvdra_cluster.control.state.reuse_delay import SlotReuseDelays
from nvdra_cluster.control.workqueue import WorkQueue
from nvdra_cluster.decide.model import (
    ClaimView,
    CliqueView,
    DomainView,
    FabricView,
    NodeView,
    Problem,
    TemplateView,
)
from nvdra_cluster.decide.node import slots
from nvdra_cluster.decide.number_allocator import NUMBER_REUSE_DELAY_S
from nvdra_core.api import ComputeDomainAssignment
from nvdra_core.kube.retry import Backoff

TOMBSTONE_LIMIT = 4096
ANY_VERSION = 1 << 63
RETRY_BACKOFF = Backoff(first_s=0.5, limit_s=30.0)


class Kind(str, Enum):
    """What a key names."""

    NODE = "node"
    """Existence of a node's FabricNode."""
    CLIQUE = "clique"
    """Specs of all FabricNodes of a clique."""
    LONE = "lone"
    """Spec of a FabricNode without a clique."""
    DOMAIN = "domain"


@dataclass(frozen=True, slots=True)
class Key:
    """Key of the work queue: node name, clique id or domain UID."""

    kind: Kind
    name: str


class Cache:
    """See the module. Read the dictionaries with ``lock`` held."""

    def __init__(self, now_s: Callable[[], float] = lambda: 0.0) -> None:
        """``now_s``: monotonic clock, for reuse delays and the queue."""
        self.now_s = now_s
        self.lock = threading.RLock()
        self.queue: WorkQueue[Key] = WorkQueue(now_s, RETRY_BACKOFF)
        self.nodes: dict[str, NodeView] = {}
        self.fabrics: dict[str, FabricView] = {}
        self.domains: dict[str, DomainView] = {}
        self.templates: dict[str, TemplateView] = {}
        self.cliques: dict[str, CliqueView] = {}
        self.claims: dict[str, ClaimView] = {}
        self.slices: dict[str, str] = {}
        """Name of a ResourceSlice of ours to its node."""
        self.in_clique = Multimap()
        """Clique to the FabricNodes that are or were in it."""
        self.reporting = Multimap()
        """Domain to the nodes that report it."""
        self.claims_of = Multimap()
        self.claims_on = Multimap()
        self.templates_of = Multimap()
        self.cliques_of = Multimap()
        self.slices_of = Multimap()
        self.lost: set[str] = set()
        """Nodes whose heartbeats stopped; set by ``node_loss``."""
        self.last_heartbeats: dict[str, str] = {}
        """Last heartbeat of each lost node."""
        self.full: set[str] = set()
        """Nodes without a slot because their clique is full; set by ``reconciler``."""
        self.outsiders: set[str] = set()
        """Nodes of another rack than their clique's; set by ``reconciler``."""
        self.report_states = ReportStates()
        self.retired: dict[str, tuple[ComputeDomainAssignment, float]] = {}
        """Domains deleted recently, with their numbers and the time: for a standby that becomes leader."""
        self.template_problems: dict[str, Problem] = {}
        self.reuse_delays = SlotReuseDelays()
        self._paths: dict[str, str] = {}
        """Of domains, to UIDs."""
        self._tombstones: OrderedDict[str, int] = OrderedDict()
        """UIDs of deleted objects to the version from which on an object of that UID counts again."""
        self._slot_lists = SharedLists()

    def enqueue(self, *keys: Key) -> None:
        """Queue keys for reconciliation."""
        self.queue.add(*keys)

    def enqueue_all(self) -> None:
        """Queue every key."""
        with self.lock:
            self.enqueue(
                *(Key(Kind.DOMAIN, uid) for uid in self.domains),
                *(Key(Kind.DOMAIN, view.domain_uid) for view in self.templates.values()),
                *(Key(Kind.DOMAIN, view.domain_uid) for view in self.cliques.values()),
                *(Key(Kind.NODE, name) for name in self.nodes.keys() | self.fabrics.keys()),
                *(self.home_key(name) for name in self.fabrics),
            )

    def home_key(self, name: str) -> Key:
        """The key that decides the spec of a node's FabricNode."""
        view = self.fabrics.get(name)
        clique_id = slots.home(view) if view is not None else ""
        return Key(Kind.CLIQUE, clique_id) if clique_id else Key(Kind.LONE, name)

    def tombstone(self, uid: str, version: int = ANY_VERSION) -> None:
        """Ignore states of a deleted object that are older than ``version``. Newer ones count: an object that lost
        its label is DELETED for a watch, and may get the label back.
        """
        with self.lock:
            self._tombstones[uid] = version
            while len(self._tombstones) > TOMBSTONE_LIMIT:
                self._tombstones.popitem(last=False)

    def _is_stale(self, view: Versioned, old: Versioned | None) -> bool:
        is_older = old is not None and old.version > view.version
        return is_older or self._tombstones.get(view.uid, -1) > view.version

    def put_node(self, view: NodeView) -> None:
        """Store a Node."""
        with self.lock:
            if self.nodes.get(view.name) != view:
                self.nodes[view.name] = view
                self._enqueue_node(view.name)

    def drop_node(self, name: str, uid: str = "") -> None:
        """Remove a Node. Here and in the other ``drop_*``: only the object of that ``uid``, if given."""
        with self.lock:
            if name in self.nodes and not is_another(self.nodes[name], uid):
                del self.nodes[name]
                self._enqueue_node(name)

    def _enqueue_node(self, name: str) -> None:
        self.enqueue(Key(Kind.NODE, name))
        if name in self.fabrics:
            self.enqueue(self.home_key(name))
            self.enqueue_domains_of(name)

    def enqueue_domains_of(self, name: str) -> None:
        """Queue the domains that depend on a node."""
        with self.lock:
            uids = {self.claims[claim].domain_uid for claim in self.claims_on.get(name)}
            view = self.fabrics.get(name)
            if view is not None:
                uids |= {report.uid for report in view.status.domains}
                uids |= {domain.uid for domain in view.spec.domains}
            self.enqueue(*(Key(Kind.DOMAIN, uid) for uid in uids))

    def put_fabric(self, view: FabricView) -> None:
        """Store a FabricNode; a change of the heartbeat alone queues nothing."""
        with self.lock:
            old = self.fabrics.get(view.name)
            if self._is_stale(view, old):
                return
            if old is not None and old.uid != view.uid:
                self.drop_fabric(view.name)
                old = None
            view = self._slot_lists.share(view)
            if old is not None and index.is_same(old, view):
                self.fabrics[view.name] = view
                return
            if old is not None:
                self.enqueue(self.home_key(view.name))
                self.enqueue_domains_of(view.name)
            self.fabrics[view.name] = view
            self._index(old, view)
            self.enqueue(self.home_key(view.name))
            self.enqueue_domains_of(view.name)

    def drop_fabric(self, name: str, uid: str = "") -> None:
        """Remove a FabricNode; its slot stays reserved for a while."""
        with self.lock:
            old = self.fabrics.get(name)
            if old is None or is_another(old, uid):
                return
            self.enqueue(self.home_key(name), Key(Kind.NODE, name))
            self.enqueue_domains_of(name)
            del self.fabrics[name]
            self._index(old, None)
            self.lost.discard(name)
            self.last_heartbeats.pop(name, None)
            self.full.discard(name)
            self.outsiders.discard(name)
            if old.spec.slot is not None:
                self.reuse_delays.reserve(name, old.spec.clique_id, old.spec.slot, self.now_s())

    def trusted_authorities(self) -> set[str]:
        """The CA bundles (PEM) in the specs of nodes."""
        with self.lock:
            specs = (view.spec for view in self.fabrics.values())
            return {spec.certificate.authorities for spec in specs if spec.certificate is not None}

    def _index(self, old: FabricView | None, new: FabricView | None) -> None:
        name = (old or new).name  # type: ignore[union-attr]
        self.in_clique.move(name, index.cliques_of(old), index.cliques_of(new))
        self.reporting.move(name, index.domains_of(old), index.domains_of(new))
        unassigned = index.named_domains(old) - index.named_domains(new)
        if unassigned:
            self.report_states.note_unassigned(name, unassigned, self.now_s())
        self.report_states.forget(name, index.domains_of(old) - index.domains_of(new))

    def put_domain(self, view: DomainView) -> None:
        """Store a ComputeDomain."""
        with self.lock:
            old = self.domains.get(view.uid)
            if self._is_stale(view, old):
                return
            if self._paths.get(view.path, view.uid) != view.uid:
                self.drop_domain(view.path)
            self._paths[view.path] = view.uid
            self.domains[view.uid] = view
            if old is None or old != view:
                self.enqueue(Key(Kind.DOMAIN, view.uid))
            if old is None or old.is_deleting != view.is_deleting:
                self.enqueue_members(view.uid)

    def domain_paths(self) -> set[str]:
        """``namespace/name`` of all ComputeDomains."""
        with self.lock:
            return set(self._paths)

    def drop_domain(self, path: str, uid: str = "") -> None:
        """Remove a ComputeDomain (``namespace/name``)."""
        with self.lock:
            if uid and self._paths.get(path) != uid:
                return
            uid = self._paths.pop(path, "")
            if (old := self.domains.pop(uid, None)) is not None:
                self._retire(old)
                self.template_problems.pop(uid, None)
                self.enqueue(Key(Kind.DOMAIN, uid))
                self.enqueue_members(uid)

    def _retire(self, view: DomainView) -> None:
        now_s = self.now_s()
        self.retired = {
            k: v for k, v in self.retired.items() if v[1] + NUMBER_REUSE_DELAY_S > now_s
        }
        if view.status.assignment is not None:
            self.retired[view.uid] = (view.status.assignment, now_s)

    def enqueue_members(self, uid: str) -> None:
        """Queue the specs of a domain's nodes."""
        with self.lock:
            names = {self.claims[claim].node for claim in self.claims_of.get(uid)}
            names |= self.reporting.get(uid)
            self.enqueue(*(self.home_key(name) for name in names if name in self.fabrics))

    def put_template(self, view: TemplateView) -> None:
        """Store a ResourceClaimTemplate."""
        path = f"{view.namespace}/{view.name}"
        with self.lock:
            old = self.templates.get(path)
            if old == view or self._is_stale(view, old):
                return
            self.templates[path] = view
            self._link(self.templates_of, path, old.domain_uid if old else None, view.domain_uid)
            self.template_problems.pop(view.domain_uid, None)

    def drop_template(self, path: str, uid: str = "") -> None:
        """Remove a ResourceClaimTemplate (``namespace/name``)."""
        with self.lock:
            old = self.templates.get(path)
            if old is not None and not is_another(old, uid):
                del self.templates[path]
                self._link(self.templates_of, path, old.domain_uid, None)

    def put_clique(self, view: CliqueView) -> None:
        """Store a ComputeDomainClique."""
        with self.lock:
            old = self.cliques.get(view.name)
            if old == view or self._is_stale(view, old):
                return
            self.cliques[view.name] = view
            self._link(self.cliques_of, view.name, None, view.domain_uid)

    def drop_clique(self, name: str, uid: str = "") -> None:
        """Remove a ComputeDomainClique."""
        with self.lock:
            old = self.cliques.get(name)
            if old is not None and not is_another(old, uid):
                del self.cliques[name]
                self._link(self.cliques_of, name, old.domain_uid, None)

    def _link(self, names: Multimap, name: str, old: str | None, new: str | None) -> None:
        names.move(name, [old] if old else [], [new] if new else [])
        self.enqueue(*(Key(Kind.DOMAIN, uid) for uid in {old, new} if uid))

    def put_claim(self, view: ClaimView) -> None:
        """Store a ResourceClaim."""
        with self.lock:
            old = self.claims.get(view.path)
            if self._is_stale(view, old):
                return
            if old == view:
                self.claims[view.path] = view  # of a newer version
            else:
                self._replace_claim(view.path, old, view)

    def drop_claim(self, path: str, uid: str = "") -> None:
        """Remove a ResourceClaim (``namespace/name``)."""
        with self.lock:
            old = self.claims.get(path)
            if old is not None and not is_another(old, uid):
                self._replace_claim(path, old, None)

    def _replace_claim(self, path: str, old: ClaimView | None, new: ClaimView | None) -> None:
        if new is None:
            del self.claims[path]
        else:
            self.claims[path] = new
        sides = [side for side in (old, new) if side is not None]
        self.claims_of.move(path, [old.domain_uid] if old else [], [new.domain_uid] if new else [])
        self.claims_on.move(path, [old.node] if old else [], [new.node] if new else [])
        for side in sides:
            self.enqueue(Key(Kind.DOMAIN, side.domain_uid))
            if side.node in self.fabrics:
                self.enqueue(self.home_key(side.node))

    def put_slice(self, name: str, node: str) -> None:
        """Store the node of a ResourceSlice of ours."""
        with self.lock:
            old = self.slices.get(name)
            if old != node:
                self.slices[name] = node
                self.slices_of.move(name, [old] if old else [], [node])
                self.enqueue(Key(Kind.NODE, node))

    def drop_slice(self, name: str, uid: str = "") -> None:
        """Remove a ResourceSlice."""
        with self.lock:
            old = self.slices.pop(name, None)
            if old is not None:
                self.slices_of.discard(old, name)

    def set_lost(self, name: str, *, is_lost: bool) -> bool:
        """Record that a node's heartbeats stopped or resumed; whether that changed."""
        with self.lock:
            if (name in self.lost) is is_lost:
                return False
            (self.lost.add if is_lost else self.lost.discard)(name)
            view = self.fabrics.get(name)
            self.last_heartbeats[name] = view.status.heartbeat_time if view is not None else ""
            self.enqueue(self.home_key(name))
            self.enqueue_domains_of(name)
            return True

    def set_slotless(
        self, full: Iterable[str], outsiders: Iterable[str], among: Iterable[str]
    ) -> None:
        """Record which of a clique's nodes (``among``) have no slot: clique full, or node of another rack."""
        with self.lock:
            changed: set[str] = set()
            for marked, names in ((self.full, set(full)), (self.outsiders, set(outsiders))):
                wanted = names & set(among)
                changed |= (marked & set(among)) ^ wanted
                marked -= set(among) - wanted
                marked |= wanted
            for name in changed:
                self.enqueue_domains_of(name)
