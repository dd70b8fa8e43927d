"""Child process of ``certificate``: reads or makes the private key, and prints a certificate request for it.

A process of its own because cryptography takes 11 MB, which the supervisor needs only while it starts.
"""

from __future__ import annotations

import sys
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

COMMON_NAME = "nvdra-imex"
PEM = serialization.Encoding.PEM


def main(path: str) -> None:
    """Print the PEM of a new key if ``path`` has no usable one, then the PEM of the request."""
    key = load_key(Path(path))
    key_text = b""
    if key is None:
        key = ec.generate_private_key(ec.SECP256R1())
        key_text = key.private_bytes(
            PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, COMMON_NAME)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    request = builder.sign(key, hashes.SHA256())
    # Written at once, so that no error message can quote a key.
    sys.stdout.write((key_text + request.public_bytes(PEM)).decode())


def load_key(path: Path) -> ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | None:
    """The key of a file; None where there is none that can sign a request."""
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (FileNotFoundError, ValueError, TypeError, UnsupportedAlgorithm):
        return None
    return key if isinstance(key, (ec.EllipticCurvePrivateKey, rsa.RSAPrivateKey)) else None
