"""The CA of IMEX peers and the certificates it issues. No API and no clock: times come in, values go out.

A node creates its own key and sends a CSR; the certificate carries only the host name of the node's slot, chosen here
and different in each clique. So a node cannot pose as another slot or clique.

CA rotation takes two steps, as peers must trust the new CA before certificates of it are in use: ``next`` is announced
to all, and OVERLAP later it signs; the old one stays trusted until it expires. After a loss of the key the new CA signs
at once for nodes without a certificate; the others keep theirs for OVERLAP and trust both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from nvdra_core.api import FabricCertificate
from nvdra_core.errors import NvdraError

CA_LIFETIME = timedelta(days=3 * 365)
LEAF_LIFETIME = timedelta(days=30)
OVERLAP = timedelta(days=2)
"""Running nodes install a new CA bundle within seconds, others when they are back."""
BACKDATED = timedelta(hours=1)
"""For nodes whose clocks are slow."""
MIN_RSA_BITS = 2048
COMMON_NAME = "nvdra IMEX CA"
OLD_LIMIT = 4
"""Old CAs that stay trusted besides a new one, the latest ones."""


class InvalidRequestError(NvdraError):
    """A node's certificate request is invalid."""


@dataclass(frozen=True, slots=True)
class Signer:
    """A CA: certificate and key, both PEM."""

    certificate: str
    key: str

    @property
    def parsed(self) -> x509.Certificate:
        """The certificate."""
        return x509.load_pem_x509_certificate(self.certificate.encode())


@dataclass(frozen=True, slots=True)
class Authority:
    """All CAs in force."""

    current: Signer
    next: Signer | None = None
    previous: str = ""
    """Certificates only; empty when there is none. Several after losses of CAs."""

    @property
    def bundle(self) -> str:
        """PEM of every CA that peers trust."""
        parts = [
            self.current.certificate,
            self.next.certificate if self.next else "",
            self.previous,
        ]
        return "".join(parts)

    def to_data(self) -> dict[str, str]:
        """Texts of the Secret."""
        data = {"ca.crt": self.current.certificate, "ca.key": self.current.key}
        if self.next is not None:
            data |= {"next.crt": self.next.certificate, "next.key": self.next.key}
        return data | ({"previous.crt": self.previous} if self.previous else {})

    @classmethod
    def from_data(cls, data: Mapping[str, str]) -> Authority | None:
        """Read what ``to_data`` wrote; None without a CA that can sign. Other invalid CAs are left out."""
        current = _signer(data.get("ca.crt", ""), data.get("ca.key", ""))
        if current is None:
            return None
        following = _signer(data.get("next.crt", ""), data.get("next.key", ""))
        previous = data.get("previous.crt", "")
        return cls(current, following, previous if parse_all(previous) else "")


def _signer(certificate: str, key: str) -> Signer | None:
    """A CA; None when it cannot sign, or the key is not that of the certificate."""
    found = Signer(certificate, key)
    try:
        is_whole = found.parsed.public_key() == _load_key(found).public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None
    return found if is_whole else None


def parse_all(text: str) -> list[x509.Certificate]:
    """Every certificate of a PEM; none of an invalid one."""
    try:
        return x509.load_pem_x509_certificates(text.encode())
    except ValueError:
        return []


def create(bundles: Iterable[str], now: datetime) -> Authority:
    """A new CA. ``bundles``: what peers trust now and continue to trust."""
    found = {_pem(one): one for text in set(bundles) for one in parse_all(text)}
    counting = [one for one in found.values() if _is_of_ours(one) and one.not_valid_after_utc > now]
    latest = sorted(counting, key=lambda one: one.not_valid_before_utc)[-OLD_LIMIT:]
    return Authority(make_ca(now), None, "".join(_pem(one) for one in latest))


def _is_of_ours(certificate: x509.Certificate) -> bool:
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    is_named = any(str(name.value).startswith(COMMON_NAME) for name in names)
    return is_named and certificate.issuer == certificate.subject


def rotate(authority: Authority | None, now: datetime) -> Authority:
    """The authority to use from now on: a new one, one with a successor, or the same."""
    if authority is None:
        return Authority(make_ca(now))
    current = authority.current.parsed
    if current.not_valid_after_utc <= now:
        return Authority(authority.next or make_ca(now))
    if current.not_valid_before_utc > now:  # created by a replica whose clock was fast
        return Authority(make_ca(now), None, authority.current.certificate)
    return _rotate_valid(authority, now)


def _rotate_valid(authority: Authority, now: datetime) -> Authority:
    """Rotate while the CA is valid: announce a successor, or let it sign."""
    if authority.next is not None:
        if now < _known_at(authority.next):
            return authority
        return Authority(authority.next, None, authority.current.certificate)
    if authority.current.parsed.not_valid_before_utc + CA_LIFETIME * 2 / 3 <= now:
        return replace(authority, next=make_ca(now))
    old = parse_all(authority.previous)
    if any(one.not_valid_after_utc <= now for one in old):
        left = "".join(_pem(one) for one in old if one.not_valid_after_utc > now)
        return replace(authority, previous=left)
    return authority


def _known_at(signer: Signer) -> datetime:
    """When every peer trusts a CA."""
    return signer.parsed.not_valid_before_utc + BACKDATED + OVERLAP


def make_ca(now: datetime) -> Signer:
    """A new self-signed CA."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{COMMON_NAME} {now:%Y-%m-%d}")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + CA_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    certificate = builder.sign(key, hashes.SHA256())
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return Signer(_pem(certificate), private.decode())


def issue(
    authority: Authority, request: str, names: tuple[str, ...], now: datetime
) -> FabricCertificate:
    """A certificate for the key in ``request`` (PEM CSR), for ``names`` and nothing else. Raises
    InvalidRequestError.
    """
    csr = parse_request(request)
    signer = authority.current.parsed
    ends = _ends(authority, now)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])]))
        .issuer_name(signer.subject)
        .public_key(csr.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(ends)
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName(n) for n in names]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage(
                [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
            ),
            critical=False,
        )
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(
                _load_key(authority.current).public_key()
            ),
            critical=False,
        )
    )
    certificate = builder.sign(_load_key(authority.current), hashes.SHA256())
    return FabricCertificate(
        certificate=_pem(certificate),
        authorities=authority.bundle,
        not_after=f"{ends:%Y-%m-%dT%H:%M:%SZ}",
    )


def _ends(authority: Authority, now: datetime) -> datetime:
    """Expiry of a certificate issued now: never after its CA."""
    return min(now + LEAF_LIFETIME, authority.current.parsed.not_valid_after_utc)


def parse_request(text: str) -> x509.CertificateSigningRequest:
    """Decode a CSR; raises InvalidRequestError unless it is self-signed with a strong key."""
    try:
        csr = x509.load_pem_x509_csr(text.encode())
        key = csr.public_key()
        is_signed = csr.is_signature_valid
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InvalidRequestError(f"certificate request: not a PEM CSR: {error}") from error
    if not is_signed:
        raise InvalidRequestError("certificate request: not signed with its own key")
    is_strong = isinstance(key, rsa.RSAPublicKey) and key.key_size >= MIN_RSA_BITS
    is_curve = isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in (
        "secp256r1",
        "secp384r1",
    )
    if not is_strong and not is_curve:
        raise InvalidRequestError(
            "certificate request: weak key; use EC P-256 or P-384, or RSA of 2048 bits or more"
        )
    return csr


def renewal(
    authority: Authority,
    given: FabricCertificate,
    request: str,
    names: tuple[str, ...],
    now: datetime | None = None,
) -> datetime | None:
    """When ``given`` must be renewed; None when it does not match: another key, other names, another CA, or not valid
    yet ``now``. Raises InvalidRequestError.
    """
    csr = parse_request(request)
    try:
        found = x509.load_pem_x509_certificate(given.certificate.encode())
        is_current = _is_issued_by(found, authority.current.parsed)
        alternative = found.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except (ValueError, x509.ExtensionNotFound):
        return None
    if not is_current and not _is_still_valid(authority, found, now):
        return None
    if tuple(alternative.value.get_values_for_type(x509.DNSName)) != names:
        return None
    if found.public_key() != csr.public_key() or given.authorities != authority.bundle:
        return None
    begins, ends = found.not_valid_before_utc, found.not_valid_after_utc
    if now is not None and begins > now:
        return None  # issued by a replica whose clock was fast
    due = begins + (ends - begins) * 2 / 3
    if authority.current.parsed.not_valid_after_utc <= ends:
        due = ends  # a new one would not last longer
    return due if is_current else min(due, _known_at(authority.current))


def _is_still_valid(authority: Authority, found: x509.Certificate, now: datetime | None) -> bool:
    """Whether a certificate of an old CA still counts, as some peers do not trust the current CA yet."""
    if now is None or now >= _known_at(authority.current):
        return False
    return any(
        _is_issued_by(found, old) and old.not_valid_before_utc <= now < old.not_valid_after_utc
        for old in parse_all(authority.previous)
    )


def _is_issued_by(found: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        found.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=not signs,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _load_key(signer: Signer) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(signer.key.encode(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError("the CA's key is not an EC key")
    return key


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()
