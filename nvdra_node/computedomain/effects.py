"""The one effect of this driver as JSON: a claim holds a domain on this node. Pure.

Journalled before the supervisor is called, so that each holder has a record. Each claim has an effect of its own, also
where claims share a channel.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from nvdra_core.errors import RecordError
from nvdra_node.checkpoint.claim import ClaimRef
from nvdra_node.kubeletplugin.driver import Effect

KIND = "joinDomain"


class JoinDomain(msgspec.Struct, frozen=True, kw_only=True):
    """Hold a domain for a claim."""

    domain_uid: str
    namespace: str
    name: str
    uid: str

    @classmethod
    def of(cls, ref: ClaimRef, domain_uid: str) -> JoinDomain:
        """The effect for a claim."""
        return cls(domain_uid=domain_uid, namespace=ref.namespace, name=ref.name, uid=ref.uid)

    def to_json(self) -> Effect:
        """For the journal."""
        claim = {"namespace": self.namespace, "name": self.name, "uid": self.uid}
        return {"kind": KIND, "domain": self.domain_uid, "claim": claim}


def decode(effect: Mapping[str, Any]) -> JoinDomain:
    """From the journal. Raises RecordError."""
    if effect.get("kind") != KIND:
        raise RecordError(f"effect {effect.get('kind')!r} is unknown; this release knows {KIND}")
    claim = effect["claim"]
    return JoinDomain(
        domain_uid=effect["domain"],
        namespace=claim["namespace"],
        name=claim["name"],
        uid=claim["uid"],
    )
