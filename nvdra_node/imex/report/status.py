"""Snapshot -> FabricNode status, and how urgent a change is. Pure. Called by ``writer`` and ``app``.

Texts contain no times or durations: each pass would cause a write.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec.structs import replace

from nvdra_core.api.addresses import is_peer_address
from nvdra_core.api.fabric import (
    FabricClaim,
    FabricDomainStatus,
    FabricNodeStatus,
    FabricState,
    ImexIncarnation,
    ImexState,
    ImexStatus,
)
from nvdra_node.imex.daemon import render
from nvdra_node.imex.daemon.render import Layout
from nvdra_node.imex.model import Holder, Mode, Readiness
from nvdra_node.imex.replies import Snapshot
from nvdra_node.imex.report import peers

DEFAULT_HEARTBEAT_S = 10.0
MAX_MESSAGE = 512
MAX_DOMAINS = 256
MAX_CLAIMS = 256
"""Of one domain. The FabricNode schema has the same limits; the API server refuses a status that exceeds them."""
MAX_ALL_CLAIMS = 1024
FIRST_OBSERVATION_S = 20.0
"""Less than the time after which the controller considers a node lost."""
FIRST_VIEW_S = 4.0


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """Constants of this node while the supervisor runs."""

    boot_id: str
    imex_version: str = ""
    channel_count: int = 0
    certificate_request: str = ""


def status(snapshot: Snapshot, machine: Machine, layout: Layout) -> FabricNodeStatus:
    """The status without the heartbeat."""
    situation = snapshot.situation
    fabric = situation.fabric
    return FabricNodeStatus(
        boot_id=machine.boot_id,
        cluster_uuid=fabric.cluster_uuid,
        clique_id=fabric.clique_id,
        addresses=_addresses(snapshot),
        address_message=situation.addresses.message[:MAX_MESSAGE],
        driver_version=fabric.driver_version,
        imex_version=machine.imex_version,
        channel_count=machine.channel_count,
        fabric_state=fabric.state,
        fabric_message=fabric.message[:MAX_MESSAGE],
        imex=_imex(snapshot, machine, layout),
        domains=_domains(snapshot),
        observed_generation=snapshot.generation,
    )


def unsettled_s(snapshot: Snapshot) -> float:
    """How long the first report waits for missing facts: an empty one would make a running domain NotReady."""
    has_fabric = snapshot.situation.fabric.state is not FabricState.UNSET
    if not snapshot.is_seen or (snapshot.run is not None and not has_fabric):
        return FIRST_OBSERVATION_S
    is_connected = snapshot.run is not None and snapshot.situation.imex is ImexState.READY
    return FIRST_VIEW_S if is_connected and snapshot.view is None else 0.0


def is_urgent(before: FabricNodeStatus, now: FabricNodeStatus) -> bool:
    """Whether the controller acts on the change: other facts of the node, a domain whose readiness changed or that was
    left, lost peers. A claim that joins is reported together with its readiness.
    """
    left = {domain.uid for domain in before.domains} - {domain.uid for domain in now.domains}
    return bool(left) or _acted_on(before) != _acted_on(now) or _has_lost(before, now)


def _has_lost(before: FabricNodeStatus, now: FabricNodeStatus) -> bool:
    """Whether a connection to a present member ended; one that left the domain does not count."""
    old = {domain.uid: domain for domain in before.domains}
    return any(
        new < connected and known - new > old[uid].peers_known - connected
        for uid, connected, new, known in _connections(before, now)
    )


def awaits_peers(before: FabricNodeStatus, now: FabricNodeStatus) -> bool:
    """Whether the only urgent change is a ready domain whose peers are not all connected: the controller waits for them
    too, so one write can report both.
    """
    old = {domain.uid for domain in before.domains if domain.ready}
    new = [domain for domain in now.domains if domain.ready and domain.uid not in old]
    if not any(domain.peers_connected < domain.peers_known for domain in new):
        return False
    rest = tuple(replace(d, ready=False) if d in new else d for d in now.domains)
    return not is_urgent(before, replace(now, domains=rest))


def has_all_peers(before: FabricNodeStatus, now: FabricNodeStatus) -> bool:
    """Whether the last peers of a domain were connected, for which its readiness may wait."""
    return any(old < new == known for _, old, new, known in _connections(before, now))


def _connections(
    before: FabricNodeStatus, now: FabricNodeStatus
) -> Iterator[tuple[str, int, int, int]]:
    """(UID, peers connected before, connected now, known now) of each domain that was ready and is."""
    old = {domain.uid: domain.peers_connected for domain in before.domains if domain.ready}
    for domain in now.domains:
        if domain.ready and domain.uid in old:
            yield domain.uid, old[domain.uid], domain.peers_connected, domain.peers_known


def _acted_on(found: FabricNodeStatus) -> tuple[object, ...]:
    ready = [domain.uid for domain in found.domains if domain.ready]
    imex = (found.imex.certificate_request, found.imex.restarts)
    node = (found.boot_id, found.clique_id, found.addresses, found.channel_count)
    return (*node, found.fabric_state, *imex, ready)


def encode(found: FabricNodeStatus, heartbeat_time: str) -> dict[str, Any]:
    """A JSON merge patch to this status, with null for empty fields.

    Server-side apply without the incarnation would leave an empty object behind.
    """
    return {**_patch(found), "heartbeatTime": heartbeat_time}


def _patch(value: msgspec.Struct) -> dict[str, Any]:
    names = zip(value.__struct_fields__, value.__struct_encode_fields__, strict=True)
    return {key: _patched(getattr(value, name)) for name, key in names}


def _patched(value: Any) -> Any:
    if isinstance(value, msgspec.Struct):
        return _patch(value)
    return None if value in ("", ()) else msgspec.to_builtins(value)


def _addresses(snapshot: Snapshot) -> tuple[str, ...]:
    """The running daemon's address, then that of the next one. An earlier release may have started it on loopback."""
    found, run = snapshot.situation.addresses, snapshot.run
    listens = run.address if run is not None and not found.has_lost(run.address) else ""
    return tuple(dict.fromkeys(one for one in (listens, found.chosen) if is_peer_address(one)))


def _imex(snapshot: Snapshot, machine: Machine, layout: Layout) -> ImexStatus:
    situation, memory, run = snapshot.situation, snapshot.memory, snapshot.run
    incarnation = None
    message = memory.last_exit if memory.failures else ""
    if memory.interrupted:
        message = message or memory.interruption
    state = situation.imex
    if run is not None:
        incarnation = ImexIncarnation(
            boot_id=machine.boot_id,
            invocation_id=situation.unit.invocation_id,
            config_hash=render.config_hash(run, layout),
            slot=_announced_slot(snapshot, run.slot),
            domain_uid=run.domain_uid,
            slot_count=run.slot_count,
            version=snapshot.view.version if snapshot.view is not None else "",
        )
    elif situation.policy.mode is Mode.DRIVER_MANAGED:
        state = ImexState.STOPPED
        message = message or (f"{situation.foreign} has the session" if situation.foreign else "")
    return ImexStatus(
        state=state,
        incarnation=incarnation,
        restarts=memory.restarts,
        message=message[:MAX_MESSAGE],
        certificate_request=machine.certificate_request,
    )


def _announced_slot(snapshot: Snapshot, slot: int) -> int:
    """The id that the daemon uses, if known: another one than the slot makes the report outdated."""
    view = snapshot.view
    return view.own if view is not None and view.own is not None else slot


def _domains(snapshot: Snapshot) -> tuple[FabricDomainStatus, ...]:
    """The held domains by UID. Beyond the limits, unused domains and waiting claims are left out."""
    claims: dict[str, list[Holder]] = {uid: [] for uid, _ in snapshot.domains}
    for holder in sorted(snapshot.situation.holders, key=lambda h: (not h.is_admitted, h.uid)):
        if holder.domain_uid in claims:
            claims[holder.domain_uid].append(holder)

    def rank(item: tuple[str, Readiness]) -> tuple[bool, bool]:
        uid, state = item
        return not state.is_ready, not any(h.is_admitted for h in claims[uid][:1])

    found = sorted(snapshot.domains, key=rank)[:MAX_DOMAINS]
    # At least one claim for each: a domain without any counts as left.
    left = MAX_ALL_CLAIMS - len(found)
    domains = []
    for uid, state in found:
        named = claims[uid][: min(MAX_CLAIMS, 1 + left)]
        left -= max(0, len(named) - 1)
        domains.append(_domain(uid, state, snapshot, named))
    return tuple(sorted(domains, key=lambda domain: domain.uid))


def _domain(
    uid: str, state: Readiness, snapshot: Snapshot, holders: list[Holder]
) -> FabricDomainStatus:
    found = peers.of_domain(uid, snapshot)
    reason, message = state.reason, state.message
    if state.is_ready and not reason:
        reason, message = peers.problem(found, snapshot)
    return FabricDomainStatus(
        uid=uid,
        ready=state.is_ready,
        reason=reason,
        message=message[:MAX_MESSAGE],
        claims=tuple(
            FabricClaim(namespace=h.namespace, name=h.name, uid=h.uid)
            for h in sorted(holders, key=lambda holder: holder.uid)
        ),
        peers_connected=len(found.connected),
        peers_known=len(found.known),
        peers=found.problems[: peers.MAX_REPORTED],
    )
