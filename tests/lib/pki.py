"""Certificates for tests: authorities, certificates of users and servers, answers to signing requests.

All keys are on P-256, all certificates are valid for ten years. `StoredAuthority` keeps everything as PEM files.
"""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LIFETIME = datetime.timedelta(days=3650)
BACKDATED = datetime.timedelta(hours=1)


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Subject of a certificate: a user with groups, or a server with DNS names and addresses."""

    user: str
    groups: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()


class KeyPair(NamedTuple):
    """A certificate and its key, as PEM."""

    certificate: bytes
    key: bytes


class Authority:
    """A certificate authority in memory."""

    def __init__(self, name: str = "test-ca", pair: KeyPair | None = None) -> None:
        """With ``pair``, the authority that it was written from."""
        if pair:
            key = serialization.load_pem_private_key(pair.key, password=None)
            assert isinstance(key, ec.EllipticCurvePrivateKey)
            self._key = key
            self._certificate = x509.load_pem_x509_certificate(pair.certificate)
            return
        self._key = ec.generate_private_key(ec.SECP256R1())
        subject = _name(name)
        self._certificate = (
            _builder(subject, subject, self._key.public_key(), is_ca=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False
            )
            .sign(self._key, hashes.SHA256())
        )

    @property
    def pair(self) -> KeyPair:
        """The authority's own certificate and key."""
        return KeyPair(self.pem.encode(), key_pem(self._key))

    @property
    def pem(self) -> str:
        """The authority's certificate."""
        return _pem(self._certificate).decode()

    def issue(self, identity: Identity) -> KeyPair:
        """Make a key and a certificate for it."""
        key = ec.generate_private_key(ec.SECP256R1())
        return KeyPair(self._sign(key.public_key(), identity), key_pem(key))

    def sign(self, request: str, name: str) -> str:
        """Answer a PEM signing request: a certificate of the request's key for ``name``, whatever it asks for."""
        parsed = x509.load_pem_x509_csr(request.encode())
        assert parsed.is_signature_valid
        return self._sign(parsed.public_key(), Identity(user=name, names=(name,))).decode()

    def _sign(self, key: CertificatePublicKeyTypes, identity: Identity) -> bytes:
        subject = _name(identity.user, identity.groups)
        alternatives: list[x509.GeneralName] = [x509.DNSName(name) for name in identity.names]
        alternatives += [x509.IPAddress(ipaddress.ip_address(ip)) for ip in identity.addresses]
        purposes = [ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = _builder(subject, self._certificate.subject, key, is_ca=False)
        if alternatives:
            purposes.append(ExtendedKeyUsageOID.SERVER_AUTH)
            builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), False)
        # The key identifier tells authorities of one name apart, as during a rotation.
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = builder.add_extension(issuer, False)
        builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), False)
        return _pem(builder.sign(self._key, hashes.SHA256()))


class StoredAuthority(Authority):
    """An authority in a directory: ca.crt and ca.key are made when missing; issued pairs are written there."""

    def __init__(self, directory: Path, name: str = "test-ca") -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.certificate_path, key_path = directory / "ca.crt", directory / "ca.key"
        if self.certificate_path.exists() and key_path.exists():
            found = KeyPair(self.certificate_path.read_bytes(), key_path.read_bytes())
            super().__init__(pair=found)
            return
        super().__init__(name)
        self._write("ca", self.pair)

    def issue_to(self, stem: str, identity: Identity) -> tuple[Path, Path]:
        """Write ``stem``.crt and ``stem``.key for an identity."""
        return self._write(stem, self.issue(identity))

    def issue_server(
        self, names: tuple[str, ...] = ("localhost",), stem: str = "server"
    ) -> tuple[Path, Path]:
        """Write a pair for loopback and the given names."""
        addresses = ("127.0.0.1", "::1")
        return self.issue_to(stem, Identity(user=stem, names=names, addresses=addresses))

    def issue_client(
        self, user: str, groups: tuple[str, ...] = (), stem: str = "client"
    ) -> tuple[Path, Path]:
        """Write a pair of a user and its groups."""
        return self.issue_to(stem, Identity(user=user, groups=groups))

    def _write(self, stem: str, pair: KeyPair) -> tuple[Path, Path]:
        paths = (self.directory / f"{stem}.crt", self.directory / f"{stem}.key")
        paths[0].write_bytes(pair.certificate)
        paths[1].touch(mode=0o600)
        paths[1].write_bytes(pair.key)
        return paths


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """PEM (PKCS #8, not encrypted) of a private key."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _name(user: str, groups: tuple[str, ...] = ()) -> x509.Name:
    attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
    return x509.Name([*attributes, x509.NameAttribute(NameOID.COMMON_NAME, user)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: CertificatePublicKeyTypes, *, is_ca: bool
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.timezone.utc)
    usage = x509.KeyUsage(
        digital_signature=True, key_cert_sign=is_ca, crl_sign=is_ca, content_commitment=False,
        key_encipherment=False, data_encipherment=False, key_agreement=False,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + LIFETIME)
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=0 if is_ca else None), True)
        .add_extension(usage, critical=True)
    )
