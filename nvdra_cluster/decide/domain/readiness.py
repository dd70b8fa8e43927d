"""Whether a node is ready for a domain, and why not. Pure.

A report counts only for the IMEX that runs now: this boot, slot and domain (upstream kept ``Ready`` over a reboot). A
node whose heartbeats stopped, or whose Node was deleted, is not ready whatever it reported last.
"""

from __future__ import annotations

from dataclasses import dataclass

from nvdra_cluster.decide.model import FabricView, MemberView
from nvdra_cluster.settings import FabricSettings, ImexMode
from nvdra_core.api import FabricDomainStatus, FabricState, Isolation
from nvdra_core.api.fabric import is_incarnation_current

NODE_GONE = "NodeGone"
NODE_LOST = "NodeLost"
NO_AGENT = "NoFabricNode"
NOT_REPORTED = "NotReported"
CLIQUE_FULL = "CliqueFull"
FABRIC_FAILED = "FabricFailed"
STALE_REPORT = "StaleReport"
NOT_READY = "NotReady"
IMEX_FAILED = "ImexFailed"
CHANNEL_MISSING = "ChannelMissing"
RACK_MISMATCH = "RackMismatch"

DEGRADING = frozenset(
    {NODE_GONE, NODE_LOST, CLIQUE_FULL, FABRIC_FAILED, IMEX_FAILED, CHANNEL_MISSING, RACK_MISMATCH}
)
"""Reasons that do not resolve by waiting."""

REPORTED = frozenset(
    {"PeersMissing", "PeersUnknown", "ImexVersionMismatch", "NodeMapMismatch"}
    | {"NoAddress", "AddressLost", "DomainFull", "ImexHeld", "ForeignImex"}
)
"""The same, as reported by a node (``nvdra_node.imex.report.peers`` and ``readiness``)."""


@dataclass(frozen=True, slots=True)
class Readiness:
    """One node's readiness for one domain. ``reason`` is empty when it is simply ready."""

    is_ready: bool
    reason: str = ""
    message: str = ""

    @property
    def is_degraded(self) -> bool:
        """Whether there is a problem that does not resolve by waiting."""
        is_lasting = self.reason in DEGRADING or self.reason in REPORTED
        return is_lasting or (self.is_ready and bool(self.reason))


def report_of(view: FabricView | None, domain_uid: str) -> FabricDomainStatus | None:
    """The node's report of the domain."""
    if view is None:
        return None
    return next((report for report in view.status.domains if report.uid == domain_uid), None)


def judge(
    member: MemberView, domain_uid: str, settings: FabricSettings, channel: int = 0
) -> Readiness:
    """The node's readiness for the domain, which has that channel."""
    view = member.fabric
    if view is None or not member.has_node:
        return _without_agent(member)
    report = report_of(view, domain_uid)
    if (problem := _without_slot(member, view, settings)) is not None:
        return problem
    if report is None:
        return Readiness(
            False, NOT_REPORTED, "the node has a claim and has not started to prepare it"
        )
    if member.is_lost:
        return Readiness(False, NODE_LOST, f"no heartbeat since {view.status.heartbeat_time}")
    if view.status.clique_id and 0 < view.status.channel_count <= channel:
        return Readiness(
            False, CHANNEL_MISSING,
            f"the domain has IMEX channel {channel}, and the driver of the node has "
            f"{view.status.channel_count}; set NVreg_ImexChannelCount alike on all nodes",
        )  # fmt: skip
    return _judge_report(view, report, settings)


def _without_slot(
    member: MemberView, view: FabricView, settings: FabricSettings
) -> Readiness | None:
    """Why the node has no slot, if that does not resolve by waiting."""
    clique_id = view.status.clique_id
    if member.is_outsider:
        return Readiness(
            False, RACK_MISMATCH,
            f"clique {clique_id}: label {settings.rack_label} of the Node differs from that of the clique's other "
            "nodes; correct the label, or find out why the node reports that clique",
        )  # fmt: skip
    if member.is_full:
        return Readiness(False, CLIQUE_FULL, _why_full(view, settings))
    return None


def _why_full(view: FabricView, settings: FabricSettings) -> str:
    count = view.spec.slot_count or settings.slot_count
    text = f"all {count} slots of clique {view.status.clique_id} are taken"
    if count >= settings.slot_count:
        return f"{text}; raise maxNodesPerDomain of the chart, or free a node"
    return (
        f"{text}; maxNodesPerDomain is {settings.slot_count}, which takes effect when no IMEX of the clique runs; "
        "stop nvdra-imex on all its nodes at once, or free a node"
    )


def _without_agent(member: MemberView) -> Readiness:
    if not member.has_node:
        return Readiness(False, NODE_GONE, "its Node was deleted")
    return Readiness(
        False, NO_AGENT, "no FabricNode: the IMEX supervisor of the node has never reported"
    )


def _judge_report(
    view: FabricView, report: FabricDomainStatus, settings: FabricSettings
) -> Readiness:
    if view.status.fabric_state is FabricState.FAILED:
        return Readiness(False, FABRIC_FAILED, view.status.fabric_message)
    if not report.ready:
        return Readiness(False, report.reason or NOT_READY, report.message)
    if not _is_current(view, report.uid, settings):
        return Readiness(False, STALE_REPORT, "the report is about an earlier run of IMEX")
    return Readiness(True, report.reason, report.message)


def _is_current(view: FabricView, domain_uid: str, settings: FabricSettings) -> bool:
    if settings.mode is ImexMode.HOST_MANAGED:
        return True  # the host manages IMEX: there is no run of ours to compare with
    if not is_incarnation_current(view.spec, view.status):
        return False
    run = view.status.imex.incarnation
    if run is None or settings.isolation is Isolation.CHANNEL:
        return True
    return run.domain_uid == domain_uid
