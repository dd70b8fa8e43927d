"""Decodes JSON objects of the API into views. Pure.

Lenient: unknown fields are dropped, and an invalid part counts as not written, because one bad object must not stop
the others.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
from msgspec.structs import replace

from nvdra_cluster.decide.domain import cliques
from nvdra_cluster.decide.model import (
    DOMAIN_LABEL,
    FINALIZER,
    FORCE_ANNOTATION,
    REMOVE_ANNOTATION,
    ClaimView,
    CliqueView,
    ConfigView,
    DomainView,
    FabricView,
    NodeView,
    TemplateView,
)
from nvdra_core.api import (
    COMPUTE_DOMAIN_DRIVER,
    ComputeDomainClique,
    ComputeDomainSpec,
    ComputeDomainStatus,
    FabricDomainStatus,
    FabricNodeSpec,
    FabricNodeStatus,
    decode_part,
    validate_compute_domain,
)
from nvdra_core.api.addresses import is_peer_address
from nvdra_core.errors import InvalidConfigError
from nvdra_core.runtime import log

_LOG = log.get(__name__)
OUT_OF_SERVICE = "node.kubernetes.io/out-of-service"
CHANNEL_PREFIX = "channel-"
"""Of device names published by our nodes."""
MAX_ADDRESSES = 16
MAX_REPORTS = 256
"""Domains in a node's report: each has a pod, and kubelets admit 110 pods by default."""
MAX_CLAIMS = 1024
"""Claims in all reports of a node."""
_REASON = re.compile(r"(?:[A-Z][A-Za-z0-9]{0,63})?")
MAX_QUOTED = 64
"""Characters of a node's text in the log."""

Json = Mapping[str, Any]
StructT = TypeVar("StructT", bound=msgspec.Struct)


def version_of(obj: Json) -> int:
    """resourceVersion as a number, as in every release so far; 0 for other text."""
    text = str(_metadata(obj).get("resourceVersion") or "")
    return int(text) if text.isdigit() else 0


def is_deleted(obj: Json) -> bool:
    """Whether the object is deleted, and no finalizer keeps it."""
    metadata = _metadata(obj)
    return bool(metadata.get("deletionTimestamp")) and not metadata.get("finalizers")


def node(obj: Json, rack_label: str = "") -> NodeView:
    """A Node."""
    metadata = _metadata(obj)
    taints = (obj.get("spec") or {}).get("taints") or ()
    is_off = any(taint.get("key") == OUT_OF_SERVICE for taint in taints)
    rack = (metadata.get("labels") or {}).get(rack_label) if rack_label else ""
    return NodeView(metadata["name"], metadata["uid"], is_off, str(rack or ""))


def fabric(obj: Json) -> FabricView:
    """A FabricNode. A half that does not decode counts as not written."""
    metadata = _metadata(obj)
    name = metadata["name"]
    status = _lenient(obj.get("status"), FabricNodeStatus, f"status of FabricNode {name}")
    status = _checked(status, name)
    owners = metadata.get("ownerReferences") or ()
    return FabricView(
        name=name,
        uid=metadata["uid"],
        version=version_of(obj),
        spec=_lenient(obj.get("spec"), FabricNodeSpec, f"spec of FabricNode {name}"),
        status=status,
        created=metadata.get("creationTimestamp") or "",
        owner_uid=next((str(o["uid"]) for o in owners if o.get("kind") == "Node"), ""),
    )


def _checked(status: FabricNodeStatus, node: str) -> FabricNodeStatus:
    """The status without invalid values: a node may be compromised, and the CRD of another release."""
    if status.clique_id and not cliques.is_valid_id(status.clique_id):
        _LOG.warning("ignoring invalid clique id", node=node, value=status.clique_id[:MAX_QUOTED])
        status = replace(status, clique_id="")
    addresses = tuple(text for text in status.addresses if is_peer_address(text))[:MAX_ADDRESSES]
    if addresses != status.addresses:
        odd = next((text for text in status.addresses if text not in addresses), "")
        _LOG.warning("ignoring invalid addresses", node=node, first=odd[:MAX_QUOTED])
        status = replace(status, addresses=addresses)
    domains = _bounded(status.domains)
    if domains != status.domains:
        _LOG.warning("report exceeds its limits; truncated", node=node)
        status = replace(status, domains=domains)
    return status


def _bounded(reports: tuple[FabricDomainStatus, ...]) -> tuple[FabricDomainStatus, ...]:
    """At most MAX_REPORTS domains with MAX_CLAIMS claims in all, and valid condition reasons."""
    left = MAX_CLAIMS
    found = []
    for report in reports[:MAX_REPORTS]:
        claims = report.claims[:left]
        left -= len(claims)
        reason = report.reason if _REASON.fullmatch(report.reason) else "InvalidReason"
        if (len(claims), reason) != (len(report.claims), report.reason):
            report = replace(report, claims=claims, reason=reason)
        found.append(report)
    return tuple(found)


def domain(obj: Json) -> DomainView:
    """A ComputeDomain."""
    metadata = _metadata(obj)
    spec, problem = _spec(obj)
    annotations = metadata.get("annotations") or {}
    path = f"{metadata['namespace']}/{metadata['name']}"
    return DomainView(
        uid=metadata["uid"],
        namespace=metadata["namespace"],
        name=metadata["name"],
        version=version_of(obj),
        generation=int(metadata.get("generation") or 1),
        spec=spec,
        problem=problem,
        status=_lenient(obj.get("status"), ComputeDomainStatus, f"status of ComputeDomain {path}"),
        finalizers=tuple(metadata.get("finalizers") or ()),
        is_deleting=bool(metadata.get("deletionTimestamp")),
        is_forced=annotations.get(FORCE_ANNOTATION) == "true",
        created=metadata.get("creationTimestamp") or "",
    )


def template(obj: Json) -> TemplateView:
    """A ResourceClaimTemplate."""
    metadata = _metadata(obj)
    label = str((metadata.get("labels") or {}).get(DOMAIN_LABEL) or "")
    config = _config((obj.get("spec") or {}).get("spec") or {})
    is_ours = FINALIZER in (metadata.get("finalizers") or ())
    return TemplateView(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        # The label can be removed by hand; the config of a template of ours names its domain.
        domain_uid=label or (config.domain_uid if is_ours else ""),
        is_labelled=bool(label),
        version=version_of(obj),
        finalizers=tuple(metadata.get("finalizers") or ()),
        is_deleting=bool(metadata.get("deletionTimestamp")),
        config=config,
        is_condemned=(metadata.get("annotations") or {}).get(REMOVE_ANNOTATION) == "true",
    )


def clique(obj: Json) -> CliqueView:
    """A ComputeDomainClique. Its name gives the domain, as labels can be edited."""
    metadata = _metadata(obj)
    domain_uid, _, clique_id = str(metadata["name"]).partition(".")
    body = _lenient(obj, ComputeDomainClique, f"ComputeDomainClique {metadata['name']}")
    return CliqueView(
        metadata["name"], metadata["uid"], domain_uid, clique_id, body.daemons, version_of(obj)
    )


def claim(obj: Json) -> ClaimView:
    """A ResourceClaim."""
    metadata = _metadata(obj)
    status = obj.get("status") or {}
    users = (u.get("name") for u in status.get("reservedFor") or ())
    return ClaimView(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        domain_uid=str((metadata.get("labels") or {}).get(DOMAIN_LABEL) or ""),
        node=_allocated_node(status.get("allocation") or {}),
        users=tuple(sorted(str(user) for user in users)),
        version=version_of(obj),
    )


def _allocated_node(allocation: Json) -> str:
    """The node a claim with a channel of ours is allocated on; empty for other claims.

    The pool's name comes from the node that published it and is not trusted alone. The node selector comes from the
    scheduler, which pins a claim with a node's device to that node (createNodeSelector in
    k8s.io/dynamic-resource-allocation).
    """
    results = (allocation.get("devices") or {}).get("results") or ()
    ours = (r for r in results if r.get("driver") == COMPUTE_DOMAIN_DRIVER)
    pools = {str(r.get("pool") or "") for r in ours if _is_channel(r.get("device"))}
    node = _selected_node(allocation.get("nodeSelector") or {})
    return node if pools == {node} else ""


def _is_channel(device: Any) -> bool:
    return isinstance(device, str) and device.startswith(CHANNEL_PREFIX)


def _selected_node(selector: Json) -> str:
    """The node that a node selector names; empty unless it names exactly one."""
    terms = selector.get("nodeSelectorTerms") or []
    fields = terms[0].get("matchFields") or [] if len(terms) == 1 else []
    values = (
        one.get("values") or []
        for one in fields
        if (one.get("key"), one.get("operator")) == ("metadata.name", "In")
    )
    return next((str(found[0]) for found in values if len(found) == 1), "")


def claimed_domain(obj: Json) -> str:
    """The domain UID in the opaque config of an allocated claim; empty for none."""
    return _config((obj.get("status") or {}).get("allocation") or {}).domain_uid


def slice_node(obj: Json) -> str:
    """The node that a ResourceSlice is of."""
    return str((obj.get("spec") or {}).get("nodeName") or "")


def _metadata(obj: Json) -> dict[str, Any]:
    found: dict[str, Any] = obj["metadata"]
    return found


def _spec(obj: Json) -> tuple[ComputeDomainSpec | None, str]:
    try:
        spec = decode_part(obj.get("spec"), ComputeDomainSpec, where="spec", strict=False)
        validate_compute_domain(spec, where="spec")
    except InvalidConfigError as error:
        return None, str(error)
    return spec, ""


def _config(claim_spec: Json) -> ConfigView:
    for entry in (claim_spec.get("devices") or {}).get("config") or ():
        opaque = entry.get("opaque") or {}
        if opaque.get("driver") == COMPUTE_DOMAIN_DRIVER:
            # Written by users: any JSON.
            found = opaque.get("parameters")
            parameters = found if isinstance(found, Mapping) else {}
            return ConfigView(
                str(parameters.get("domainID") or ""),
                str(parameters.get("allocationMode") or "Single"),
            )
    return ConfigView()


def _lenient(value: Any, cls: type[StructT], what: str) -> StructT:
    if not value:
        return cls()
    try:
        return msgspec.convert(value, cls)
    except msgspec.ValidationError as error:
        _LOG.warning("ignoring fields that cannot be decoded", what=what, error=error)
    return _field_by_field(value, cls)


def _field_by_field(value: Any, cls: type[StructT]) -> StructT:
    """The fields that decode, with defaults for the others. All fields of ``cls`` have defaults."""
    found = cls()
    if not isinstance(value, Mapping):
        return found
    for name, key in zip(cls.__struct_fields__, cls.__struct_encode_fields__, strict=True):
        if key not in value:
            continue
        try:
            alone = msgspec.convert({key: value[key]}, cls)
        except msgspec.ValidationError:
            continue  # logged by the caller
        found = replace(found, **{name: getattr(alone, name)})
    return found
