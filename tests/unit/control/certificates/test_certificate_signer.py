"""Who is issued a certificate when: never twice in a row, also where time is short or clocks are wrong."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from nvdra_cluster.control.certificates import ca
from nvdra_cluster.control.certificates.signer import SECRETS, CertificateSigner
from nvdra_cluster.decide.node.nodespecs import CertificateRequest
from nvdra_core.api import FabricCertificate
from nvdra_core.errors import ApiError
from nvdra_core.kube.client import DEFAULT_WRITE
from nvdra_core.kube.resources import JsonObject, Resource, WriteOptions
from nvdra_core.runtime.clock import SystemClock
from nvdra_node.kube.client import Client
from tests.unit.control.certificates.test_ca import NOW, a_request


class SetClock(SystemClock):
    """Shows what it is set to."""

    def __init__(self, now: datetime) -> None:
        self.now = now

    def wall(self) -> float:
        return self.now.timestamp()


class OneSecret(Client):
    """An API with one Secret."""

    def __init__(self) -> None:
        self.stored: JsonObject | None = None
        self.writes = 0

    def data(self) -> JsonObject:
        """What the Secret holds."""
        found: JsonObject = (self.stored or {}).get("data") or {}
        return found

    def get(self, resource: Resource, name: str, *, namespace: str = "", deadline: object = None) -> JsonObject:  # fmt: skip
        assert resource == SECRETS
        if self.stored is None:
            raise ApiError("not there", status=404, api_reason="NotFound")
        return self.stored

    def create(self, resource: Resource, body: JsonObject, *, options: WriteOptions = DEFAULT_WRITE, deadline: object = None) -> JsonObject:  # fmt: skip
        self.stored, self.writes = body, self.writes + 1
        return body

    def update(self, resource: Resource, body: JsonObject, *, options: WriteOptions = DEFAULT_WRITE, deadline: object = None) -> JsonObject:  # fmt: skip
        return self.create(resource, body)


def a_signer(
    api: OneSecret, now: datetime = NOW, trusted: tuple[str, ...] = ()
) -> tuple[CertificateSigner, SetClock]:
    """``trusted``: CAs in FabricNodes."""
    clock = SetClock(now)
    signer = CertificateSigner(api, "nvdra", clock, lambda: trusted)
    signer.refresh()
    return signer, clock


REQUEST = a_request()


def ask(
    signer: CertificateSigner, given: FabricCertificate | None = None
) -> FabricCertificate | None:
    """The node's certificate after the answer to its request."""
    request = CertificateRequest(node="a", request=REQUEST, dns_name="slot-3", current=given)
    return signer.issue([request]).get("a", given)


class TestIssuing:
    def test_one_good_is_kept(self):
        signer, _ = a_signer(OneSecret())
        given = ask(signer)
        assert ask(signer, given) == given

    def test_certificate_checked_when_issued_is_renewed_in_time(self):
        signer, clock = a_signer(OneSecret())
        given = ask(signer)
        assert ask(signer, given) == given
        clock.now = NOW + ca.LEAF_LIFETIME * 2 / 3
        assert ask(signer, given) != given

    def test_none_is_issued_over_and_over_when_ca_ends_soon(self):
        api = OneSecret()
        a_signer(api)
        signer, _ = a_signer(api, NOW + ca.CA_LIFETIME - timedelta(minutes=10))
        given = ask(signer)
        assert given is not None
        assert ask(signer, given) == given

    def test_one_not_valid_yet_is_issued_again(self):
        """The last leader's clock was fast."""
        signer, clock = a_signer(OneSecret())
        clock.now = NOW + timedelta(days=5)
        given = ask(signer)
        clock.now = NOW + timedelta(days=1)
        again = ask(signer, given)
        assert again != given
        assert ask(signer, again) == again


class TestSecret:
    def test_secret_that_went_is_written_again_with_same_ca(self):
        api = OneSecret()
        signer, _ = a_signer(api)
        before = api.data()
        api.stored = None
        signer.refresh()
        assert api.data() == before
        assert before["ca.key"]

    def test_lost_ca_stays_trusted_and_certificates_are_kept(self):
        """Nodes learn of the new CA one after another; those that have not yet must be understood."""
        given = ask(a_signer(OneSecret())[0])
        assert given is not None
        api = OneSecret()
        signer, clock = a_signer(api, trusted=(given.authorities, "no PEM"))
        kept = ask(signer, given)
        assert kept is not None
        assert kept.certificate == given.certificate
        assert given.authorities in kept.authorities
        assert kept.authorities != given.authorities
        assert ask(signer, kept) == kept
        newcomer = ask(signer)
        assert newcomer is not None
        assert newcomer.authorities == kept.authorities
        again, _ = a_signer(api)
        assert ask(again, kept) == kept, "also with the next leader, which reads the Secret"
        clock.now = NOW + ca.OVERLAP
        changed = ask(signer, kept)
        assert changed is not None
        assert changed.certificate != given.certificate
        assert changed.authorities == kept.authorities

    def test_ca_removed_by_administrator_is_no_longer_trusted(self):
        """Its key was stolen."""
        given = ask(a_signer(OneSecret())[0])
        assert given is not None
        api = OneSecret()
        signer, _ = a_signer(api, trusted=(given.authorities,))
        del api.data()["previous.crt"]
        signer.refresh()
        changed = ask(signer, given)
        assert changed is not None
        assert changed.certificate != given.certificate
        assert given.authorities not in changed.authorities

    def test_what_cannot_be_read_is_not_written_over(self):
        """It may be a key that is still needed."""
        api = OneSecret()
        api.stored = {"metadata": {"name": "nvdra-imex-ca"}, "data": {"ca.key": "IS4u"}}
        signer, _ = a_signer(api)
        assert api.writes == 0
        assert ask(signer) is None

    def test_empty_one_is_filled(self):
        api = OneSecret()
        api.stored = {"metadata": {"name": "nvdra-imex-ca"}}
        signer, _ = a_signer(api)
        assert ask(signer) is not None

    def test_one_spoiled_later_changes_nothing_for_nodes(self):
        api = OneSecret()
        signer, clock = a_signer(api)
        given = ask(signer)
        api.stored = {"metadata": {"name": "nvdra-imex-ca"}, "data": {"ca.key": "%"}}
        signer.refresh()
        clock.now = NOW.astimezone(timezone.utc)
        assert ask(signer, given) == given
        assert api.writes == 1
