"""Builders of the views that the decisions of the controller read."""

from __future__ import annotations

from typing import Any

from nvdra_cluster.decide.model import (
    FINALIZER,
    ClaimView,
    ConfigView,
    DomainSnapshot,
    DomainView,
    FabricView,
    MemberView,
    TemplateView,
)
from nvdra_cluster.settings import FabricSettings, ImexMode
from nvdra_core import api

CLIQUE = "7b968a6d-c8aa-45e1-9e07-e1e51be99c31.32766"
OTHER_CLIQUE = "7b968a6d-c8aa-45e1-9e07-e1e51be99c31.32767"
NOW = "2026-11-21T16:00:00Z"
EARLIER = "2026-11-21T15:00:00Z"
SETTINGS = FabricSettings()
BY_CHANNEL = FabricSettings(isolation=api.Isolation.CHANNEL)
BY_HOST = FabricSettings(mode=ImexMode.HOST_MANAGED)
NUMBERS = api.ComputeDomainAssignment(isolation=api.Isolation.DOMAIN, port=24001, channel=0)


def a_run(
    slot: int, domain: str = "u1", boot: str = "boot-1", slot_count: int = 18
) -> api.ImexStatus:
    incarnation = api.ImexIncarnation(
        boot_id=boot, invocation_id="i1", config_hash="h", slot=slot, domain_uid=domain,
        slot_count=slot_count,
    )  # fmt: skip
    return api.ImexStatus(state=api.ImexState.READY, incarnation=incarnation)


def a_report(uid: str = "u1", **fields: Any) -> api.FabricDomainStatus:
    """One that is connected to as many peers as there can be."""
    return api.FabricDomainStatus(**{"uid": uid, "ready": True, "peers_connected": 17, **fields})


def a_claim_of(name: str = "c", namespace: str = "team") -> api.FabricClaim:
    return api.FabricClaim(namespace=namespace, name=name, uid=f"uid-{name}")


def a_fabric_node(
    name: str = "tray-a",
    *,
    clique: str = CLIQUE,
    slot: int | None = None,
    spec: dict[str, Any] | None = None,
    status: dict[str, Any] | None = None,
    created: str = EARLIER,
) -> FabricView:
    """One that reports ``clique``; with a ``slot``, also one that was given it."""
    given: dict[str, Any] = {}
    if slot is not None:
        given = {"clique_id": clique, "slot": slot, "slot_count": 18}
    reported = {"boot_id": "boot-1", "clique_id": clique, "addresses": (f"10.0.0.{len(name)}",)}
    return FabricView(
        name=name,
        uid=f"uid-{name}",
        version=1,
        spec=api.FabricNodeSpec(**{**given, **(spec or {})}),
        status=api.FabricNodeStatus(**{**reported, **(status or {})}),
        created=created,
    )


def a_ready_node(name: str = "tray-a", slot: int = 0, *, domain: str = "u1", **report: Any) -> FabricView:  # fmt: skip
    """One whose IMEX serves ``domain``."""
    status = {"imex": a_run(slot, domain), "domains": (a_report(domain, **report),)}
    return a_fabric_node(name, slot=slot, status=status)


def a_member(view: FabricView | None = None, **fields: Any) -> MemberView:
    view = view or a_ready_node()
    return MemberView(**{"node": view.name, "fabric": view, **fields})


def a_spec(**fields: Any) -> api.ComputeDomainSpec:
    body = {"channel": {"resourceClaimTemplate": {"name": "train-channel"}}, **fields}
    return api.decode_part(body, api.ComputeDomainSpec, where="w", strict=True)


def a_domain(uid: str = "u1", **fields: Any) -> DomainView:
    known: dict[str, Any] = {
        "uid": uid,
        "namespace": "team",
        "name": "train",
        "version": 7,
        "spec": a_spec(),
        "finalizers": (FINALIZER,),
    }
    return DomainView(**{**known, **fields})


def a_template(**fields: Any) -> TemplateView:
    known: dict[str, Any] = {
        "namespace": "team",
        "name": "train-channel",
        "uid": "t1",
        "domain_uid": "u1",
        "finalizers": (FINALIZER,),
        "config": ConfigView("u1", "Single"),
    }
    return TemplateView(**{**known, **fields})


def a_claim(name: str = "c", **fields: Any) -> ClaimView:
    known: dict[str, Any] = {
        "namespace": "team",
        "name": name,
        "uid": f"uid-{name}",
        "domain_uid": "u1",
        "node": "tray-a",
        "users": ("pod-0",),
    }
    return ClaimView(**{**known, **fields})


def a_snapshot(domain: DomainView | None = None, **fields: Any) -> DomainSnapshot:
    known: dict[str, Any] = {
        "domain": domain or a_domain(),
        "templates": (a_template(),),
        "assignment": NUMBERS,
    }
    return DomainSnapshot(**{**known, **fields})
