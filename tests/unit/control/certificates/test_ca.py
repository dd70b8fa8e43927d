"""Certificates of IMEX peers: for the slot's name alone, renewed in time, and a CA that changes without a gap."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID

from nvdra_cluster.control.certificates import ca
from nvdra_cluster.control.certificates.ca import Authority, InvalidRequestError

NOW = datetime(2026, 11, 21, 16, tzinfo=timezone.utc)
NAMES = ("imex-0123456789-0003",)


def a_request(key: object = None, name: str = "i-am-slot-0") -> str:
    key = key or ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    )
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    request = builder.sign(key, algorithm)  # type: ignore[arg-type]
    return request.public_bytes(serialization.Encoding.PEM).decode()


def an_authority(made: datetime = NOW) -> Authority:
    return ca.rotate(None, made)


class TestIssuing:
    def test_names_are_ours_and_not_those_asked_for(self):
        given = ca.issue(an_authority(), a_request(), NAMES, NOW)
        found = x509.load_pem_x509_certificate(given.certificate.encode())
        alternative = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert alternative.get_values_for_type(x509.DNSName) == list(NAMES)
        assert found.subject.rfc4514_string() == f"CN={NAMES[0]}"

    def test_it_is_no_ca_and_its_issuer_is(self):
        authority = an_authority()
        given = ca.issue(authority, a_request(), NAMES, NOW)
        found = x509.load_pem_x509_certificate(given.certificate.encode())
        found.verify_directly_issued_by(authority.current.parsed)
        issuer = authority.current.parsed
        constraints, own = (
            one.extensions.get_extension_for_class(x509.BasicConstraints).value
            for one in (found, issuer)
        )
        assert not constraints.ca
        assert (own.ca, own.path_length) == (True, 0)

    def test_it_ends_before_its_ca(self):
        authority = an_authority(NOW - ca.CA_LIFETIME + timedelta(days=10))
        given = ca.issue(authority, a_request(), NAMES, NOW)
        found = x509.load_pem_x509_certificate(given.certificate.encode())
        assert found.not_valid_after_utc == authority.current.parsed.not_valid_after_utc

    @pytest.mark.parametrize(
        "request_text",
        [
            "", "garbage", "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n",
            a_request(rsa.generate_private_key(65537, 1024)),
            a_request(ed25519.Ed25519PrivateKey.generate()),
            a_request(ec.generate_private_key(ec.SECP521R1())),
        ],
        ids=["empty", "garbage", "broken", "weak", "ed25519", "p521"],
    )  # fmt: skip
    def test_what_is_no_good_request_is_refused(self, request_text):
        with pytest.raises(InvalidRequestError):
            ca.issue(an_authority(), request_text, NAMES, NOW)

    def test_request_changed_on_way_is_refused(self):
        first, second = a_request().splitlines(), a_request(name="i-am-slot-1").splitlines()
        mixed = "\n".join([*first[:2], *second[2:]])
        with pytest.raises(InvalidRequestError):
            ca.parse_request(mixed)


class TestRenewal:
    def test_is_due_after_two_thirds_of_time(self):
        authority, request = an_authority(), a_request()
        given = ca.issue(authority, request, NAMES, NOW)
        due = ca.renewal(authority, given, request, NAMES)
        assert due is not None
        assert timedelta(days=19) < due - NOW < timedelta(days=21)

    def test_another_key_name_or_ca_does_not_fit(self):
        authority, request = an_authority(), a_request()
        given = ca.issue(authority, request, NAMES, NOW)
        assert ca.renewal(authority, given, a_request(), NAMES) is None
        assert ca.renewal(authority, given, request, ("imex-0123456789-0004",)) is None
        assert ca.renewal(an_authority(), given, request, NAMES) is None


class TestRotation:
    def test_young_ca_stays(self):
        authority = an_authority()
        assert ca.rotate(authority, NOW + timedelta(days=700)) == authority

    def test_ca_successor_is_trusted_before_signing_and_old_after(self):
        first = an_authority()
        later = NOW + ca.CA_LIFETIME * 2 / 3 + timedelta(days=1)
        announced = ca.rotate(first, later)
        assert announced.current == first.current
        assert announced.next is not None
        assert announced.next.certificate in announced.bundle
        assert ca.rotate(announced, later + timedelta(hours=1)) == announced

        changed = ca.rotate(announced, later + ca.OVERLAP)
        assert (changed.current, changed.next) == (announced.next, None)
        assert first.current.certificate in changed.bundle

        alone = ca.rotate(changed, NOW + ca.CA_LIFETIME + timedelta(days=1))
        assert (alone.current, alone.previous) == (changed.current, "")

    def test_expired_ca_is_replaced(self):
        old = an_authority()
        assert ca.rotate(old, NOW + ca.CA_LIFETIME + timedelta(1)).current != old.current

    def test_it_survives_its_secret(self):
        later = NOW + ca.CA_LIFETIME * 2 / 3 + timedelta(days=1)
        announced = ca.rotate(an_authority(), later)
        changed = ca.rotate(announced, later + ca.OVERLAP)
        for authority in (an_authority(), announced, changed):
            assert Authority.from_data(authority.to_data()) == authority

    def test_ca_expired_during_downtime_is_succeeded(self):
        later = NOW + ca.CA_LIFETIME - timedelta(days=1)
        announced = ca.rotate(an_authority(), later)
        assert announced.next is not None
        found = ca.rotate(announced, NOW + ca.CA_LIFETIME + timedelta(hours=1))
        assert found.current == announced.next

    def test_ca_from_future_is_replaced_and_stays_trusted(self):
        early = an_authority(NOW + timedelta(days=30))
        found = ca.rotate(early, NOW)
        assert found.current.parsed.not_valid_before_utc <= NOW
        assert early.current.certificate in found.bundle

    def test_new_ca_trusts_unexpired_cas_of_peers(self):
        old, older = an_authority(), an_authority(NOW - ca.CA_LIFETIME - timedelta(days=1))
        leaf = ca.issue(old, a_request(), ("a",), NOW).certificate
        found = ca.create([old.bundle + older.bundle, old.bundle, leaf, "x"], NOW)
        assert found.previous == old.bundle
        assert Authority.from_data(found.to_data()) == found

    def test_of_several_old_ones_each_ends_when_it_expires(self):
        first = an_authority(NOW - timedelta(days=400))
        found = ca.create([an_authority().bundle, first.bundle], NOW)
        assert first.bundle in found.previous
        later = NOW + ca.CA_LIFETIME * 2 / 3 - timedelta(days=1)
        assert first.bundle not in ca.rotate(found, later).previous

    def test_key_of_another_ca_makes_none(self):
        """Each certificate would be found wrong and issued again, without end."""
        data = an_authority().to_data() | {"ca.key": an_authority().current.key}
        assert Authority.from_data(data) is None

    def test_spoiled_second_ca_does_not_spoil_first(self):
        authority = an_authority()
        for spoiled in (
            {"previous.crt": "x"},
            {"next.crt": "x", "next.key": "y"},
            {"next.crt": an_authority().current.certificate, "next.key": authority.current.key},
        ):
            assert Authority.from_data(authority.to_data() | spoiled) == authority

    @pytest.mark.parametrize("data", [{}, {"ca.crt": "x", "ca.key": "y"}, {"ca.crt": "x"}])
    def test_secret_that_makes_no_sense_is_none(self, data):
        assert Authority.from_data(data) is None
