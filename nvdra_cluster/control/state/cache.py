"""Everything the controller knows, with indexes, and which decisions are due because of a change.

Watches and the answers to our own writes come in through ``put_*`` and ``drop_*``; an older version
of an object never replaces a newer one. ``control.reconciler`` takes due keys and asks for snapshots.
One lock guards it all; no method blocks on anything else.
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
from nvdra_cluster.control.state.reuse_delay import ReuseDelays
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

DEAD_KEPT = 4096
FOR_EVER = 1 << 63


class Kind(str, Enum):
    """What a decision is about."""

    NODE = "node"
    """Whether a node has a FabricNode."""
    CLIQUE = "clique"
    """Specs of all FabricNodes of a clique."""
    LONE = "lone"
    """Spec of a FabricNode without a clique."""
    DOMAIN = "domain"


@dataclass(frozen=True, slots=True)
class Key:
    """One decision: node name, clique id or domain UID."""

    kind: Kind
    name: str


class Cache:
    """See the module. Read the dictionaries with ``lock`` held."""

    def __init__(self, now_s: Callable[[], float] = lambda: 0.0) -> None:
        """``now_s``: a monotonic clock, for what cools."""
        self.now_s = now_s
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.nodes: dict[str, NodeView] = {}
        self.fabrics: dict[str, FabricView] = {}
        self.domains: dict[str, DomainView] = {}
        self.templates: dict[str, TemplateView] = {}
        self.cliques: dict[str, CliqueView] = {}
        self.claims: dict[str, ClaimView] = {}
        self.offers: dict[str, str] = {}
        """Slice name to node."""
        self.in_clique = Multimap()
        """Clique to the FabricNodes that are or were in it."""
        self.reporting = Multimap()
        """Domain to the nodes that report it."""
        self.claims_of = Multimap()
        self.claims_on = Multimap()
        self.templates_of = Multimap()
        self.cliques_of = Multimap()
        self.offering = Multimap()
        self.lost: set[str] = set()
        """Nodes whose heartbeats stopped; ``nodeloss`` says so."""
        self.last_heartbeats: dict[str, str] = {}
        """Of those: what the last one was when they were found silent."""
        self.full: set[str] = set()
        """Nodes whose clique has no slot for them; ``reconcile`` says so."""
        self.outsiders: set[str] = set()
        """Nodes whose clique is of another rack; ``reconcile`` says so."""
        self.report_states = ReportStates()
        self.retired: dict[str, tuple[ComputeDomainAssignment, float]] = {}
        """Domains that went a short time ago, with their numbers and when: for a standby that takes over."""
        self.template_problems: dict[str, Problem] = {}
        self.cooling = ReuseDelays()
        self._due: dict[Key, None] = {}
        self._paths: dict[str, str] = {}
        """Of domains, to UIDs."""
        self._dead: OrderedDict[str, int] = OrderedDict()
        """UIDs of objects that are gone, and since which version: what comes late is not believed."""
        self._lists = SharedLists()

    def mark(self, *keys: Key) -> None:
        """These decisions are due."""
        with self.changed:
            self._due.update(dict.fromkeys(keys))
            self.changed.notify_all()

    def mark_all(self) -> None:
        """Every decision is due."""
        with self.lock:
            self.mark(
                *(Key(Kind.DOMAIN, uid) for uid in self.domains),
                *(Key(Kind.DOMAIN, view.domain_uid) for view in self.templates.values()),
                *(Key(Kind.DOMAIN, view.domain_uid) for view in self.cliques.values()),
                *(Key(Kind.NODE, name) for name in self.nodes.keys() | self.fabrics.keys()),
                *(self.home_key(name) for name in self.fabrics),
            )

    def take(self, limit: int) -> list[Key]:
        """Up to ``limit`` due decisions, oldest first; they are no longer due."""
        with self.lock:
            taken = list(self._due)[:limit]
            for key in taken:
                del self._due[key]
            return taken

    def due(self) -> int:
        """How many decisions are due."""
        return len(self._due)

    def home_key(self, name: str) -> Key:
        """The decision about the spec of a node's FabricNode."""
        view = self.fabrics.get(name)
        clique_id = slots.home(view) if view is not None else ""
        return Key(Kind.CLIQUE, clique_id) if clique_id else Key(Kind.LONE, name)

    def tombstone(self, uid: str, version: int = FOR_EVER) -> None:
        """The object is gone, or goes because we deleted it: what is older than ``version`` is not taken
        any more. Newer is: an object that lost its label looks gone, and may get it back.
        """
        with self.lock:
            self._dead[uid] = version
            while len(self._dead) > DEAD_KEPT:
                self._dead.popitem(last=False)

    def _is_late(self, view: Versioned, old: Versioned | None) -> bool:
        is_older = old is not None and old.version > view.version
        return is_older or self._dead.get(view.uid, -1) > view.version

    def put_node(self, view: NodeView) -> None:
        """A Node as it is now."""
        with self.lock:
            if self.nodes.get(view.name) != view:
                self.nodes[view.name] = view
                self._touch_node(view.name)

    def drop_node(self, name: str, uid: str = "") -> None:
        """A Node is gone. Here and in the other ``drop_*``: only the one of that ``uid``, if it is given."""
        with self.lock:
            if name in self.nodes and not is_another(self.nodes[name], uid):
                del self.nodes[name]
                self._touch_node(name)

    def _touch_node(self, name: str) -> None:
        self.mark(Key(Kind.NODE, name))
        if name in self.fabrics:
            self.mark(self.home_key(name))
            self.touch_domains_of(name)

    def touch_domains_of(self, name: str) -> None:
        """Everything that says something about a node must look again."""
        with self.lock:
            uids = {self.claims[claim].domain_uid for claim in self.claims_on.get(name)}
            view = self.fabrics.get(name)
            if view is not None:
                uids |= {report.uid for report in view.status.domains}
                uids |= {domain.uid for domain in view.spec.domains}
            self.mark(*(Key(Kind.DOMAIN, uid) for uid in uids))

    def put_fabric(self, view: FabricView) -> None:
        """A FabricNode as it is now; one that differs in its heartbeat only makes nothing due."""
        with self.lock:
            old = self.fabrics.get(view.name)
            if self._is_late(view, old):
                return
            if old is not None and old.uid != view.uid:
                self.drop_fabric(view.name)
                old = None
            view = self._lists.share(view)
            if old is not None and index.is_same(old, view):
                self.fabrics[view.name] = view
                return
            if old is not None:
                self.mark(self.home_key(view.name))
                self.touch_domains_of(view.name)
            self.fabrics[view.name] = view
            self._index(old, view)
            self.mark(self.home_key(view.name))
            self.touch_domains_of(view.name)

    def drop_fabric(self, name: str, uid: str = "") -> None:
        """A FabricNode is gone; its slot cools."""
        with self.lock:
            old = self.fabrics.get(name)
            if old is None or is_another(old, uid):
                return
            self.mark(self.home_key(name), Key(Kind.NODE, name))
            self.touch_domains_of(name)
            del self.fabrics[name]
            self._index(old, None)
            self.lost.discard(name)
            self.last_heartbeats.pop(name, None)
            self.full.discard(name)
            self.outsiders.discard(name)
            if old.spec.slot is not None:
                self.cooling.begin(name, old.spec.clique_id, old.spec.slot, self.now_s())

    def told_authorities(self) -> set[str]:
        """The CAs that nodes were told to trust, each a PEM of one or more."""
        with self.lock:
            specs = (view.spec for view in self.fabrics.values())
            return {spec.certificate.authorities for spec in specs if spec.certificate is not None}

    def _index(self, old: FabricView | None, new: FabricView | None) -> None:
        name = (old or new).name  # type: ignore[union-attr]
        self.in_clique.move(name, index.cliques_of(old), index.cliques_of(new))
        self.reporting.move(name, index.domains_of(old), index.domains_of(new))
        untold = index.named_domains(old) - index.named_domains(new)
        if untold:
            self.report_states.untell(name, untold, self.now_s())
        self.report_states.forget(name, index.domains_of(old) - index.domains_of(new))

    def put_domain(self, view: DomainView) -> None:
        """A ComputeDomain as it is now."""
        with self.lock:
            old = self.domains.get(view.uid)
            if self._is_late(view, old):
                return
            if self._paths.get(view.path, view.uid) != view.uid:
                self.drop_domain(view.path)
            self._paths[view.path] = view.uid
            self.domains[view.uid] = view
            if old is None or old != view:
                self.mark(Key(Kind.DOMAIN, view.uid))
            if old is None or old.is_deleting != view.is_deleting:
                self.touch_members(view.uid)

    def domain_paths(self) -> set[str]:
        """``namespace/name`` of all ComputeDomains."""
        with self.lock:
            return set(self._paths)

    def drop_domain(self, path: str, uid: str = "") -> None:
        """A ComputeDomain (``namespace/name``) is gone."""
        with self.lock:
            if uid and self._paths.get(path) != uid:
                return
            uid = self._paths.pop(path, "")
            if (old := self.domains.pop(uid, None)) is not None:
                self._retire(old)
                self.template_problems.pop(uid, None)
                self.mark(Key(Kind.DOMAIN, uid))
                self.touch_members(uid)

    def _retire(self, view: DomainView) -> None:
        now_s = self.now_s()
        self.retired = {
            k: v for k, v in self.retired.items() if v[1] + NUMBER_REUSE_DELAY_S > now_s
        }
        if view.status.assignment is not None:
            self.retired[view.uid] = (view.status.assignment, now_s)

    def touch_members(self, uid: str) -> None:
        """The specs of the domain's nodes must be looked at."""
        with self.lock:
            names = {self.claims[claim].node for claim in self.claims_of.get(uid)}
            names |= self.reporting.get(uid)
            self.mark(*(self.home_key(name) for name in names if name in self.fabrics))

    def put_template(self, view: TemplateView) -> None:
        """A ResourceClaimTemplate as it is now."""
        path = f"{view.namespace}/{view.name}"
        with self.lock:
            old = self.templates.get(path)
            if old == view or self._is_late(view, old):
                return
            self.templates[path] = view
            self._link(self.templates_of, path, old.domain_uid if old else None, view.domain_uid)
            self.template_problems.pop(view.domain_uid, None)

    def drop_template(self, path: str, uid: str = "") -> None:
        """A ResourceClaimTemplate (``namespace/name``) is gone."""
        with self.lock:
            old = self.templates.get(path)
            if old is not None and not is_another(old, uid):
                del self.templates[path]
                self._link(self.templates_of, path, old.domain_uid, None)

    def put_clique(self, view: CliqueView) -> None:
        """A ComputeDomainClique as it is now."""
        with self.lock:
            old = self.cliques.get(view.name)
            if old == view or self._is_late(view, old):
                return
            self.cliques[view.name] = view
            self._link(self.cliques_of, view.name, None, view.domain_uid)

    def drop_clique(self, name: str, uid: str = "") -> None:
        """A ComputeDomainClique is gone."""
        with self.lock:
            old = self.cliques.get(name)
            if old is not None and not is_another(old, uid):
                del self.cliques[name]
                self._link(self.cliques_of, name, old.domain_uid, None)

    def _link(self, names: Multimap, name: str, old: str | None, new: str | None) -> None:
        names.move(name, [old] if old else [], [new] if new else [])
        self.mark(*(Key(Kind.DOMAIN, uid) for uid in {old, new} if uid))

    def put_claim(self, view: ClaimView) -> None:
        """A ResourceClaim as it is now."""
        with self.lock:
            old = self.claims.get(view.path)
            if self._is_late(view, old):
                return
            if old == view:
                self.claims[view.path] = view  # of a newer version
            else:
                self._replace_claim(view.path, old, view)

    def drop_claim(self, path: str, uid: str = "") -> None:
        """A ResourceClaim (``namespace/name``) is gone."""
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
            self.mark(Key(Kind.DOMAIN, side.domain_uid))
            if side.node in self.fabrics:
                self.mark(self.home_key(side.node))

    def put_slice(self, name: str, node: str) -> None:
        """A ResourceSlice of our driver."""
        with self.lock:
            old = self.offers.get(name)
            if old != node:
                self.offers[name] = node
                self.offering.move(name, [old] if old else [], [node])
                self.mark(Key(Kind.NODE, node))

    def drop_slice(self, name: str, uid: str = "") -> None:
        """It is gone."""
        with self.lock:
            old = self.offers.pop(name, None)
            if old is not None:
                self.offering.discard(old, name)

    def set_lost(self, name: str, *, is_lost: bool) -> bool:
        """Say that a node's heartbeats stopped, or go on; returns whether that is new."""
        with self.lock:
            if (name in self.lost) is is_lost:
                return False
            (self.lost.add if is_lost else self.lost.discard)(name)
            view = self.fabrics.get(name)
            self.last_heartbeats[name] = view.status.heartbeat_time if view is not None else ""
            self.mark(self.home_key(name))
            self.touch_domains_of(name)
            return True

    def set_slotless(
        self, full: Iterable[str], outsiders: Iterable[str], among: Iterable[str]
    ) -> None:
        """Say which of the nodes ``among`` a clique have no slot, as there is none or they are of another rack."""
        with self.lock:
            changed: set[str] = set()
            for marked, names in ((self.full, set(full)), (self.outsiders, set(outsiders))):
                wanted = names & set(among)
                changed |= (marked & set(among)) ^ wanted
                marked -= set(among) - wanted
                marked |= wanted
            for name in changed:
                self.touch_domains_of(name)
