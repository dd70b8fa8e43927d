"""What a node's report of a domain counts for, given what confirms it. Called by ``reconcile``, with the cache locked.

A watched claim confirms a report at once; for the others ``verifier`` reads the claims. Until it has, a report makes
no member and still holds the domain. One that no claim confirms counts for nothing where the node's spec did not
name the domain within TOLD_S. Where it did, pods may outlive their claims: such a report holds a domain that is
being deleted for UNCONFIRMED_HOLD_S more, and the node's spec goes on to name the domain, so that neither its IMEX
nor its port is touched. A lost node reports nothing new: it holds until an administrator removes it.
"""

from __future__ import annotations

from nvdra_cluster.control.state.cache import Cache
from nvdra_cluster.decide.domain import readiness
from nvdra_cluster.decide.model import DomainView
from nvdra_core.api.fabric import domain_named

UNCONFIRMED_HOLD_S = 600.0


def is_believed(cache: Cache, domain: DomainView, name: str) -> bool:
    """Whether a node's report alone makes it take part."""
    view, pair = cache.fabrics[name], (name, domain.uid)
    report = readiness.report_of(view, domain.uid)
    if report is None or not any(c.namespace == domain.namespace for c in report.claims):
        return False
    # What the controller told the node was right when it did.
    if domain_named(view.spec, domain.uid) or pair in cache.report_states.confirmed:
        return True
    if pair not in cache.report_states.refuted:
        cache.report_states.ask(pair, is_urgent=False)
    return False


def holds_nothing(cache: Cache, domain: DomainView, name: str) -> bool:
    """Whether the report does not hold the domain, which is being deleted: its claims were read, and are not there."""
    if _is_watched(cache, domain, name):
        return False
    pair = (name, domain.uid)
    cache.report_states.ask(pair, is_urgent=True)
    since_s = cache.report_states.refuted.get(pair)
    if since_s is None:
        return False
    if not is_told(cache, name, domain.uid):
        return True
    return name not in cache.lost and cache.now_s() - since_s >= UNCONFIRMED_HOLD_S


def is_told(cache: Cache, name: str, uid: str) -> bool:
    """Whether the node's spec names the domain, or did so a short time ago."""
    view = cache.fabrics.get(name)
    if view is not None and domain_named(view.spec, uid) is not None:
        return True
    return cache.report_states.was_told((name, uid), cache.now_s())


def _is_watched(cache: Cache, domain: DomainView, name: str) -> bool:
    """Whether a claim that is watched confirms the report."""
    claims = (cache.claims[path] for path in cache.claims_on.get(name))
    return any(c.domain_uid == domain.uid and c.namespace == domain.namespace for c in claims)


def holds_numbers(cache: Cache, name: str, uid: str) -> bool:
    """Whether a node may use the port or channel of a domain that is gone. One that is silent may have begun with
    what it was told.
    """
    node, view = cache.nodes.get(name), cache.fabrics.get(name)
    if view is None or (node is not None and node.is_out_of_service):
        return False
    report = readiness.report_of(view, uid)
    has_claims = report is not None and bool(report.claims)
    if is_told(cache, name, uid):
        return has_claims or name in cache.lost
    if not has_claims or (name, uid) in cache.report_states.refuted:
        return False
    cache.report_states.ask((name, uid), is_urgent=True)
    return True
