"""Certificates for FabricNodes, with the CA in a Secret of the controller's namespace. Called by ``nodespecs``.

The CA is read or made by the leader, at its start and at every resync; until it is there, nodes keep
the certificates they have. A Secret that somebody deleted is written again from memory; one that cannot be
read is never written over. One that is gone with all who knew it is followed by a new CA, besides which nodes
trust the old one: its certificate is in what they were told. Checking one costs a signature, so what was found
is remembered.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from msgspec.structs import replace

from nvdra_cluster.control.certificates import ca
from nvdra_cluster.control.certificates.ca import Authority, InvalidRequestError
from nvdra_cluster.decide.model import FabricView
from nvdra_core.api import FabricCertificate, FabricNodeSpec
from nvdra_core.api.fabric import slot_name
from nvdra_core.errors import ApiError
from nvdra_core.kube.client import Client
from nvdra_core.kube.resources import JsonObject, Resource
from nvdra_core.runtime import log
from nvdra_core.runtime.clock import Clock

_LOG = log.get(__name__)
SECRETS = Resource("", "v1", "secrets")
SECRET_NAME = "nvdra-imex-ca"  # noqa: S105 - a name, not a password


@dataclass(frozen=True, slots=True)
class _Known:
    """What a certificate was found to be."""

    question: tuple[str, ...]
    renew_at: datetime


class CertificateSigner:
    """See the module. ``__call__`` is a ``nodespecs.Certify``; one thread."""

    def __init__(
        self,
        client: Client,
        namespace: str,
        clock: Clock,
        told: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        """``told``: the CAs that nodes were told to trust, each a PEM of one or more."""
        self._told = told
        self._client = client
        self._namespace = namespace
        self._clock = clock
        self._authority: Authority | None = None
        self._known: dict[str, _Known] = {}
        self._refused: dict[str, str] = {}

    def refresh(self) -> None:
        """Read the CA, make it if there is none, rotate it when it is time. Raises ApiError."""
        found = self._read()
        authority = Authority.from_data(_texts(found)) if found is not None else self._authority
        if authority is None and found is not None and found.get("data"):
            _LOG.warning(
                "the Secret holds no CA that can be used, and is left as it is; nodes keep what they have. "
                "Put it back, or delete it to have a new CA made",
                name=SECRET_NAME,
            )
            return
        now = self._now()
        wanted = ca.rotated(authority, now) if authority else ca.begun(self._told(), now)
        if wanted != authority or found is None:
            self._store(wanted, found)
            _LOG.info("the CA of IMEX peers was written", is_new=authority is None)
            if authority is None and wanted.previous:
                _LOG.warning(
                    "the CA's key was lost, and a new CA made; nodes trust the old one on until it expires. "
                    "Where the key may have been stolen, remove previous.crt from the Secret",
                    name=SECRET_NAME,
                )
        if wanted != self._authority:
            self._authority = wanted
            self._known.clear()

    def ca_ends_s(self) -> float | None:
        """When the CA that signs expires, in seconds since the epoch; None where there is none. From any thread."""
        authority = self._authority
        return authority.current.parsed.not_valid_after_utc.timestamp() if authority else None

    def __call__(self, view: FabricView, spec: FabricNodeSpec) -> FabricCertificate | None:
        """The certificate for the node in its slot; the one it has while that is good."""
        given, request = view.spec.certificate, view.status.imex.certificate_request
        if self._authority is None or not request or spec.slot is None:
            return given
        names = (slot_name(spec.clique_id, spec.slot),)
        question = (
            request,
            *names,
            given.certificate if given else "",
            given.authorities if given else "",
        )
        known = self._known.get(view.name)
        if known is not None and known.question == question and self._now() < known.renew_at:
            return given
        try:
            return self._decide(view, question, names)
        except InvalidRequestError as error:
            if self._refused.get(view.name) != request:
                self._refused[view.name] = request
                _LOG.warning("a node's certificate request is refused", error, node=view.name)
            return given

    def _decide(
        self, view: FabricView, question: tuple[str, ...], names: tuple[str, ...]
    ) -> FabricCertificate | None:
        if self._authority is None:
            return view.spec.certificate
        given, request, now = view.spec.certificate, question[0], self._now()
        if given is not None:
            renew_at = ca.renewal(self._authority, given, request, names, now)
            if renew_at is None and self._differs_in_authorities_only(given, request, names):
                return replace(given, authorities=self._authority.bundle)
            if renew_at is not None and now < renew_at:
                self._known[view.name] = _Known(question, renew_at)
                return given
        _LOG.info("issuing a certificate", v=1, node=view.name, name=names[0])
        return ca.issue(self._authority, request, names, now)

    def _differs_in_authorities_only(
        self, given: FabricCertificate, request: str, names: tuple[str, ...]
    ) -> bool:
        """A successor of the CA was announced: the certificate itself stays."""
        if self._authority is None or given.authorities == self._authority.bundle:
            return False
        updated = replace(given, authorities=self._authority.bundle)
        renew_at = ca.renewal(self._authority, updated, request, names, self._now())
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
