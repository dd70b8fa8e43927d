"""Issues certificates for FabricNodes; the CA is in a Secret of the controller's namespace. One thread.

The leader reads or creates the CA at its start and at every resync; until then nodes keep their certificates. A deleted
Secret is written again from memory; an unreadable one is never overwritten. If the CA's key is lost with every
replica, a new CA follows, and nodes trust the old one too, from the bundles in their specs. Checking a certificate
costs a signature, so results are cached.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from msgspec.structs import replace

from nvdra_cluster.control.certificates import ca
from nvdra_cluster.control.certificates.ca import Authority, InvalidRequestError
from nvdra_cluster.decide.node.nodespecs import CertificateRequest
from nvdra_core.api import FabricCertificate
from nvdra_core.errors import ApiError
from nvdra_core.kube.client import ResourceClient
from nvdra_core.kube.resources import JsonObject, Resource
from nvdra_core.runtime import log
from nvdra_core.runtime.clock import Clock

_LOG = log.get(__name__)
SECRETS = Resource("", "v1", "secrets")
SECRET_NAME = "nvdra-imex-ca"  # noqa: S105 - a name, not a password


@dataclass(frozen=True, slots=True)
class _Known:
    """Cached result of checking a certificate."""

    inputs: tuple[str, ...]
    renew_at: datetime


class CertificateSigner:
    """See the module."""

    def __init__(
        self,
        client: ResourceClient,
        namespace: str,
        clock: Clock,
        trusted: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        """``trusted``: the CA bundles (PEM) in the specs of nodes."""
        self._trusted = trusted
        self._client = client
        self._namespace = namespace
        self._clock = clock
        self._authority: Authority | None = None
        self._known: dict[str, _Known] = {}
        self._refused: dict[str, str] = {}

    def refresh(self) -> None:
        """Read the CA, create a missing one, rotate an old one. Raises ApiError."""
        found = self._read()
        authority = Authority.from_data(_texts(found)) if found is not None else self._authority
        if authority is None and found is not None and found.get("data"):
            _LOG.warning(
                "CA secret is unusable and was not changed; existing node certificates stay valid. "
                "Restore it, or delete it to have a new CA created",
                secret=SECRET_NAME,
            )
            return
        now = self._now()
        wanted = ca.rotate(authority, now) if authority else ca.create(self._trusted(), now)
        if wanted != authority or found is None:
            self._store(wanted, found)
            _LOG.info("CA of IMEX peers stored", is_new=authority is None)
            if authority is None and wanted.previous:
                _LOG.warning(
                    "CA key was lost and a new CA created; nodes trust the old one until it expires. "
                    "If the key may have been stolen, remove previous.crt from the Secret",
                    secret=SECRET_NAME,
                )
        if wanted != self._authority:
            self._authority = wanted
            self._known.clear()

    def ca_ends_s(self) -> float | None:
        """Expiry of the signing CA in seconds since the epoch; None without a CA. From any thread."""
        authority = self._authority
        return authority.current.parsed.not_valid_after_utc.timestamp() if authority else None

    def issue(self, requests: Sequence[CertificateRequest]) -> dict[str, FabricCertificate]:
        """New certificates by node; nodes whose certificate stays are left out."""
        issued: dict[str, FabricCertificate] = {}
        for one in requests:
            found = self._answer(one)
            if found is not None and found != one.current:
                issued[one.node] = found
        return issued

    def _answer(self, one: CertificateRequest) -> FabricCertificate | None:
        """The certificate that the node should have; the current one while that is valid."""
        current = one.current
        if self._authority is None:
            return current
        bundle = current.authorities if current else ""
        inputs = (one.request, one.dns_name, current.certificate if current else "", bundle)
        known = self._known.get(one.node)
        if known is not None and known.inputs == inputs and self._now() < known.renew_at:
            return current
        try:
            return self._sign(self._authority, one, inputs)
        except InvalidRequestError as error:
            if self._refused.get(one.node) != one.request:
                self._refused[one.node] = one.request
                _LOG.warning("refusing certificate request", error, node=one.node)
            return current

    def _sign(
        self, authority: Authority, one: CertificateRequest, inputs: tuple[str, ...]
    ) -> FabricCertificate:
        now, names = self._now(), (one.dns_name,)
        if one.current is not None:
            renew_at = ca.renewal(authority, one.current, one.request, names, now)
            if renew_at is not None and now < renew_at:
                self._known[one.node] = _Known(inputs, renew_at)
                return one.current
            updated = replace(one.current, authorities=authority.bundle)
            if renew_at is None and self._is_valid(authority, updated, one):
                return updated  # a successor of the CA was announced: the certificate itself stays
        _LOG.info("issuing certificate", v=1, node=one.node, name=one.dns_name)
        return ca.issue(authority, one.request, names, now)

    def _is_valid(
        self, authority: Authority, given: FabricCertificate, one: CertificateRequest
    ) -> bool:
        renew_at = ca.renewal(authority, given, one.request, (one.dns_name,), self._now())
        return renew_at is not None and self._now() < renew_at

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock.wall(), timezone.utc).replace(microsecond=0)

    def _read(self) -> JsonObject | None:
        try:
            return self._client.get(SECRETS, SECRET_NAME, namespace=self._namespace)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    def _store(self, authority: Authority, found: JsonObject | None) -> None:
        data = {key: _encode(text) for key, text in authority.to_data().items()}
        body: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "Opaque",
            "metadata": {"name": SECRET_NAME, "namespace": self._namespace},
            "data": data,
        }
        if found is None:
            self._client.create(SECRETS, body)
        else:
            self._client.update(SECRETS, {**found, "data": data})


def _encode(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _texts(secret: JsonObject) -> dict[str, str]:
    try:
        data = secret.get("data") or {}
        return {key: base64.b64decode(value, validate=True).decode() for key, value in data.items()}
    except (binascii.Error, UnicodeDecodeError, TypeError):
        return {}
