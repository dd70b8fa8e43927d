"""What all types of the API group share. Used by the type modules here and by ``decode``."""

from __future__ import annotations

from typing import Union

import msgspec

API_VERSION = "resource.nvidia.com/v1beta1"
"""``apiVersion`` of every object; there is no other version."""

GPU_DRIVER = "gpu.nvidia.com"
COMPUTE_DOMAIN_DRIVER = "compute-domain.nvidia.com"

QuantityText = Union[str, int, float]  # noqa: UP007 - an alias is evaluated, also on Python 3.10
"""A Kubernetes quantity as JSON may carry it. ``rules`` checks and canonicalises it."""


class ApiStruct(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Base of the types: immutable, JSON names in camel case, unset fields not written.

    Unknown fields are ``decode``'s business: it refuses them for users and drops them for records.
    """
