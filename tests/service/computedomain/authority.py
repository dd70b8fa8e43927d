"""A certificate authority for IMEX peers, as the controller has one."""

from __future__ import annotations

import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

PEM = serialization.Encoding.PEM
NOW = datetime.datetime.now(datetime.UTC)


class Authority:
    """Signs the keys of requests for names that it chooses itself."""

    def __init__(self, name: str = "imex CA") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        constraints = x509.BasicConstraints(ca=True, path_length=0)
        builder = self._builder(self._name, self._key.public_key())
        self._certificate = builder.add_extension(constraints, critical=True).sign(
            self._key, hashes.SHA256()
        )

    @property
    def pem(self) -> str:
        return self._certificate.public_bytes(PEM).decode()

    def sign(self, request: str, name: str) -> str:
        asked = x509.load_pem_x509_csr(request.encode())
        assert asked.is_signature_valid
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        names = x509.SubjectAlternativeName([x509.DNSName(name)])
        builder = self._builder(subject, asked.public_key()).add_extension(names, critical=False)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(PEM).decode()

    def _builder(self, subject: x509.Name, key: object) -> x509.CertificateBuilder:
        day = datetime.timedelta(days=1)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)  # type: ignore[arg-type]
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - day)
            .not_valid_after(NOW + day)
        )
