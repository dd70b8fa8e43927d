"""Certificates for the fake: a CA, a server certificate and client certificates, made on the spot. Tests only.

Needs the ``cryptography`` package, which the node itself does not have.
"""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LIFETIME = datetime.timedelta(days=7)
BACKDATED = datetime.timedelta(minutes=5)


class Authority:
    """A CA that lives in a directory: ``ca.crt`` and ``ca.key`` are made when missing."""

    def __init__(self, directory: Path, name: str = "fake-ca") -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.certificate_path = directory / "ca.crt"
        key_path = directory / "ca.key"
        if key_path.exists() and self.certificate_path.exists():
            loaded = serialization.load_pem_private_key(key_path.read_bytes(), password=None)
            if not isinstance(loaded, ec.EllipticCurvePrivateKey):
                raise ValueError(f"{key_path} is not an elliptic curve key")
            self._key = loaded
            self._certificate = x509.load_pem_x509_certificate(self.certificate_path.read_bytes())
            return
        self._key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._certificate = (
            _builder(subject, subject, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(is_ca=True), critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False
            )
            .sign(self._key, hashes.SHA256())
        )
        self.certificate_path.write_bytes(
            self._certificate.public_bytes(serialization.Encoding.PEM)
        )
        _write_secret(key_path, _key_pem(self._key))

    def issue_server(
        self, names: tuple[str, ...] = ("localhost",), stem: str = "server"
    ) -> tuple[Path, Path]:
        """``stem``.crt and .key for loopback and the given names."""
        addresses = [ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("::1")]
        alternatives = x509.SubjectAlternativeName(
            [*(x509.DNSName(name) for name in names), *(x509.IPAddress(one) for one in addresses)]
        )
        return self._issue(stem, stem, (), alternatives)

    def issue_client(
        self, user: str, groups: tuple[str, ...] = (), stem: str = "client"
    ) -> tuple[Path, Path]:
        """``stem``.crt and .key that stand for a user and its groups."""
        return self._issue(stem, user, groups, None)

    def _issue(
        self,
        stem: str,
        user: str,
        groups: tuple[str, ...],
        alternatives: x509.SubjectAlternativeName | None,
    ) -> tuple[Path, Path]:
        key = ec.generate_private_key(ec.SECP256R1())
        attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
        attributes.append(x509.NameAttribute(NameOID.COMMON_NAME, user))
        purpose = (
            ExtendedKeyUsageOID.SERVER_AUTH if alternatives else ExtendedKeyUsageOID.CLIENT_AUTH
        )
        builder = (
            _builder(x509.Name(attributes), self._certificate.subject, key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(is_ca=False), critical=True)
            .add_extension(
                # Tells authorities of the same name apart, as during a rotation.
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        )
        if alternatives:
            builder = builder.add_extension(alternatives, critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        paths = (self.directory / f"{stem}.crt", self.directory / f"{stem}.key")
        paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        _write_secret(paths[1], _key_pem(key))
        return paths


def server_context(certificate: Path, key: Path, client_ca: Path | None) -> ssl.SSLContext:
    """What the fake listens with; client certificates are verified when ``client_ca`` is given, never demanded."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate, key)
    if client_ca:
        context.load_verify_locations(client_ca)
        context.verify_mode = ssl.CERT_OPTIONAL
    return context


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.timezone.utc)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + LIFETIME)
    )


def _key_usage(*, is_ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True, key_cert_sign=is_ca, crl_sign=is_ca, content_commitment=False,
        key_encipherment=False, data_encipherment=False, key_agreement=False,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _write_secret(path: Path, data: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(data)
