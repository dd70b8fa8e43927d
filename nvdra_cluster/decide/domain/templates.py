"""The ResourceClaimTemplate of a domain, as upstream creates it, and what to do about existing ones. Pure.

One addition: its claims carry the domain's label, so that the controller can watch the claims of domains only.
"""

from __future__ import annotations

from typing import Any

from nvdra_cluster.decide.model import (
    DOMAIN_LABEL,
    FINALIZER,
    REMOVE_ANNOTATION,
    TARGET_LABEL,
    ConfigView,
    DomainSnapshot,
    DomainView,
    TemplateView,
)
from nvdra_cluster.decide.writes import TEMPLATES, Create, Delete, Merge, Write
from nvdra_cluster.settings import FabricSettings, ImexMode
from nvdra_core.api import API_VERSION, COMPUTE_DOMAIN_DRIVER, AllocationMode

DEVICE_CLASS = "compute-domain-default-channel.nvidia.com"
REQUEST = "channel"
CONFIG_KIND = "ComputeDomainChannelConfig"


def wanted_config(domain: DomainView, settings: FabricSettings) -> ConfigView:
    """The opaque config of the domain's claims."""
    mode = domain.spec.channel.allocation_mode if domain.spec else None
    if settings.mode is ImexMode.HOST_MANAGED or not mode:
        mode = AllocationMode.SINGLE
    return ConfigView(domain.uid, mode.value)


def body(domain: DomainView, settings: FabricSettings) -> dict[str, Any]:
    """The template to create. ``domain.spec`` must not be None."""
    if domain.spec is None:
        raise ValueError(f"ComputeDomain {domain.path} has no spec")
    config = wanted_config(domain, settings)
    # Sorted by key: the API server stores these bytes as sent, but sorts them in a server-side apply of the claim's
    # status, and then refuses that as a change of the allocation (422).
    parameters = {
        "allocationMode": config.allocation_mode,
        "apiVersion": API_VERSION,
        "domainID": config.domain_uid,
        "kind": CONFIG_KIND,
    }
    return {
        "apiVersion": TEMPLATES.api_version,
        "kind": "ResourceClaimTemplate",
        "metadata": {
            "name": domain.spec.channel.resource_claim_template.name,
            "namespace": domain.namespace,
            "labels": _labels(domain),
            "finalizers": [FINALIZER],
        },
        "spec": {
            "metadata": {"labels": {DOMAIN_LABEL: domain.uid}},
            "spec": {
                "devices": {
                    "requests": [{"name": REQUEST, "exactly": {"deviceClassName": DEVICE_CLASS}}],
                    "config": [
                        {
                            "requests": [REQUEST],
                            "opaque": {"driver": COMPUTE_DOMAIN_DRIVER, "parameters": parameters},
                        }
                    ],
                }
            },
        },
    }


def _labels(domain: DomainView) -> dict[str, str]:
    return {DOMAIN_LABEL: domain.uid, TARGET_LABEL: "Workload"}


def wanted_name(domain: DomainView) -> str:
    """The name chosen by the user; empty without a valid spec."""
    return domain.spec.channel.resource_claim_template.name if domain.spec else ""


def is_ours(template: TemplateView) -> bool:
    """Whether the controller created it. A label alone does not count, as users can set it on theirs."""
    return FINALIZER in template.finalizers or template.is_condemned


def in_force(snapshot: DomainSnapshot, settings: FabricSettings) -> TemplateView | None:
    """The template that serves the domain, ours or not."""
    domain = snapshot.domain
    for template in snapshot.templates:
        is_named = template.name == wanted_name(domain) and not template.is_deleting
        if is_named and template.config == wanted_config(domain, settings):
            return template
    return None


def obstacle(snapshot: DomainSnapshot, settings: FabricSettings) -> TemplateView | None:
    """The template that has the wanted name and does not serve."""
    if in_force(snapshot, settings) is not None:
        return None
    name = wanted_name(snapshot.domain)
    return next((template for template in snapshot.templates if template.name == name), None)


def reconcile(snapshot: DomainSnapshot, settings: FabricSettings) -> list[Write]:
    """Writes that lead to exactly one correct template."""
    right = in_force(snapshot, settings)
    wrong = [template for template in snapshot.templates if template is not right]
    writes = [write for template in wrong if is_ours(template) for write in remove(template)]
    if right is not None and not right.is_labelled:
        metadata = {"uid": right.uid, "labels": _labels(snapshot.domain)}
        writes.append(Merge(TEMPLATES, right.namespace, right.name, {"metadata": metadata}))
    if right is None and obstacle(snapshot, settings) is None:
        writes.append(Create(TEMPLATES, body(snapshot.domain, settings)))
    return writes


def remove(template: TemplateView) -> list[Write]:
    """Writes that remove the finalizer of a template and delete it, from any state."""
    writes: list[Write] = []
    if FINALIZER in template.finalizers:
        left = [name for name in template.finalizers if name != FINALIZER]
        metadata = {
            "uid": template.uid,
            "resourceVersion": str(template.version),
            "finalizers": left or None,
            "annotations": {REMOVE_ANNOTATION: "true"},
        }
        writes.append(Merge(TEMPLATES, template.namespace, template.name, {"metadata": metadata}))
    if not template.is_deleting:
        writes.append(Delete(TEMPLATES, template.namespace, template.name, template.uid))
    return writes
