"""Which Node a credential belongs to, read from the token or the client certificate without asking the API server.

In: a KubeConfig. Out: the Node's name. Nothing is verified: only the API server decides what a credential may do. Reads
the credential's file, nothing else. Called by ``nvdra_node.app``.
"""

from __future__ import annotations

import re
import ssl
from pathlib import Path

from nvdra_core.errors import MalformedTextError
from nvdra_node.kube import token
from nvdra_node.kube.config import KubeConfig

_COMMON_NAME = re.compile(rb"\x06\x03\x55\x04\x03[\x0c\x13]\x81?(.)system:node:", re.DOTALL)
"""In DER: the OID of commonName (2.5.4.3), a UTF8String or PrintableString, its length up to 255 (RFC 5280, X.690). A
library that decodes certificates takes 12 MB of memory that the services need for nothing else."""
_PREFIX_LENGTH = len("system:node:")
_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)


def node_of(config: KubeConfig) -> str:
    """Name of the Node that a ServiceAccount's token is bound to (KEP-4193), or of the user ``system:node:<name>`` of a
    kubelet's certificate.

    Empty when it names none or cannot be read; using the credential reports why.
    """
    try:
        if config.token_file or config.token:
            text = config.token or Path(config.token_file).read_text(encoding="ascii")
            return token.parse(text).node
        pem = config.client_cert_data or Path(config.client_cert_file or "/dev/null").read_bytes()
        return _node_of_certificate(pem.decode("ascii", "replace"))
    except (OSError, ValueError, MalformedTextError):
        return ""


def _node_of_certificate(pem: str) -> str:
    """Of the first certificate, which is the client's own. Raises ValueError."""
    block = _PEM.search(pem)
    if block is None:
        return ""
    der = ssl.PEM_cert_to_DER_cert(block[0])
    found = _COMMON_NAME.search(der)
    if found is None:
        return ""
    return der[found.end() : found.end() + found[1][0] - _PREFIX_LENGTH].decode("ascii")
